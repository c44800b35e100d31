"""`make test-guest`: runs the tests of the kernel's nbd driver in a guest; its output, and exit code 0 if all held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.guest.boot import run_in_guest
from tests.rig.cdp import ROOT

SECONDS = 600.0


def main() -> int:
    root = subprocess.run([ROOT / "tools/fetch-guest.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    code, said = run_in_guest(Path(root), "tests.guest.kernel_nbd", modules=("nbd", "loop", "fuse"), seconds=SECONDS)
    print(said)
    if code is None:
        print(f"the guest told no outcome within {SECONDS:.0f} s")
    return 1 if code is None else code


if __name__ == "__main__":
    sys.exit(main())
