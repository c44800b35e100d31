"""Makes the golden stores: `python -m tests.format.make_golden [NAME …]`, from the repository's root.

They are made once by the native engine of the version that their format names, and stay as they are: every later
reader must read them. Beside each store stands what it must read as.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.format.native_history import SIZE, lay_volume, run, run_and_be_killed

GOLDEN = Path(__file__).parent / "golden"
States = dict[int, bytes]


def _clean(folder: Path, state: bytearray, states: States) -> None:
    """Stopped cleanly; one segment."""
    volume, more = run(folder, state, 1, 30)
    volume.close()
    states |= more


def _killed(folder: Path, state: bytearray, states: States) -> None:
    """Left by kill -9; nobody has recovered it."""
    states |= run_and_be_killed(folder, state, 2, 12)


def _epochs(folder: Path, state: bytearray, states: States) -> None:
    """Three runs of the writer: stopped, killed, recovered and stopped."""
    _clean(folder, state, states)
    states |= run_and_be_killed(folder, state, 3, 10)
    volume, more = run(folder, state, 4, 10)
    volume.close()
    states |= more


STORES: dict[str, Callable[[Path, bytearray, States], None]] = {"clean": _clean, "killed": _killed, "epochs": _epochs}


def make(name: str) -> None:
    """Writes golden/NAME.tar.xz and golden/NAME.json."""
    with tempfile.TemporaryDirectory() as base:
        store = Path(base, "store")
        state = bytearray(SIZE)
        states: States = {0: bytes(state)}
        STORES[name](lay_volume(store, time.time_ns()), state, states)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:xz") as archive:
            archive.add(store, "store")
        (GOLDEN / f"{name}.tar.xz").write_bytes(packed.getvalue())
    told = {
        "format": 1,
        "states": {str(lsn): hashlib.sha256(content).hexdigest() for lsn, content in states.items()},
    }
    (GOLDEN / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or STORES:
        make(wanted)
