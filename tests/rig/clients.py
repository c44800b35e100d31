"""NBD clients that others wrote, as programs: each call runs to its end or fails with all that the program said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rig.cdp import ROOT
from tests.rig.process import ProgramFailed, run

NBDINFO_NO = 2
"""nbdinfo's exit code for no; every other but 0 is a failure."""


def nbdcopy(source: str | Path, target: str | Path, *, connections: int = 4) -> None:
    """Copies one way; either side may be a URI. Ends with a flush of the target."""
    run("nbdcopy", "--flush", f"--connections={connections}", source, target)


def nbdinfo(*words: str) -> Any:
    """The parsed answer of `nbdinfo --json`."""
    return json.loads(run("nbdinfo", "--json", *words).stdout)


def nbd_can(feature: str, uri: str) -> bool:
    return _said_yes("--can", feature, uri)


def nbd_is(property_: str, uri: str) -> bool:
    return _said_yes("--is", property_, uri)


def _said_yes(question: str, what: str, uri: str) -> bool:
    done = run("nbdinfo", question, what, uri, exit_code=None)
    if done.returncode not in (0, NBDINFO_NO):
        raise ProgramFailed(f"nbdinfo {question} {what} {uri}: {done.stderr}")
    return done.returncode == 0


@dataclass(frozen=True, slots=True)
class Qemu:
    """qemu-img and qemu-io of one folder: PATH's, or a newer version's."""

    folder: Path

    def img(self, *words: str | Path) -> str:
        return run(self.folder / "qemu-img", *words).stdout

    def io(self, image: str | Path, commands: Sequence[str], *options: str) -> str:
        """Runs qemu-io's commands in order on a raw image. It exits with 0 after a failed command, so its output is judged as well."""
        script = [word for command in commands for word in ("-c", command)]
        printed = run(self.folder / "qemu-io", "-f", "raw", *options, *script, image)
        said = printed.stdout + printed.stderr
        if "failed" in said.lower() or "error" in said.lower():
            raise ProgramFailed(f"qemu-io on {image}: {said}")
        return said

    def convert(self, source: str | Path, target: str | Path, *options: str) -> None:
        self.img("convert", "-f", "raw", "-O", "raw", *options, source, target)


def newest_qemu() -> Qemu:
    """Version 10 or later, which negotiates extended headers. ProgramFailed where there is none and none can be had."""
    return Qemu(Path(run(ROOT / "tools" / "fetch-qemu10.sh").stdout.strip()))
