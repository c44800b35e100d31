"""A block device where the kernel has no nbd: the export as a file, and a loop device over it.

    kernel file system → loop device → FUSE → nbdfuse → qemu-nbd → STORE/attach.sock → daemon      (cdp/attach/front.py)

Invariants:
- A loop device is taken away only if it still is over the front of its attachment: others may have taken its number.
- fsync and discard arrive at the daemon as FLUSH and TRIM; a loop device has no FUA, it flushes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cdp.attach import place
from cdp.attach.front import Front
from cdp.attach.notes import Attachment
from cdp.errors import Busy, CdpError, Io

END_SECONDS = 10.0
"""For a loop device to be let go."""
MAKE_SECONDS = 20.0
"""For a loop device to be made, which reads its partition table through the daemon."""
STEP_SECONDS = 0.01


class FuseLoop:
    """The driver `fuse`."""

    name = "fuse"

    def __init__(self, store: Path) -> None:
        self._store = store

    def missing(self) -> str | None:
        return missing()

    def make(self, one: Attachment, block_size: int, size: int) -> Attachment:
        """Makes the device; the attachment with what became of it."""
        front = Front(self._store, one.id)
        file = front.start(one.kind, one.export, read_only=one.read_only, timeout_seconds=one.timeout_seconds)
        try:
            device = _make_loop(front, file, read_only=one.read_only, block_size=block_size)
        except BaseException:
            front.end()
            _end_loops(file)
            raise
        return replace(one, device=device, pid=front.pid, started=front.started, diskseq=_diskseq(device))

    def end(self, one: Attachment) -> None:
        """Takes the device away; nobody uses it. Idempotent. Busy if a program keeps it open."""
        if _shows(self._store, one):
            _end_loop(one.device)
        self._front(one).end()

    def leave(self) -> None:
        """The front waits for the next daemon by itself."""

    def cut(self, one: Attachment) -> None:
        """Ends what is behind the device: reads and writes fail from now on."""
        self._front(one).end()

    def works(self, one: Attachment) -> bool:
        """Whether something answers behind the device."""
        return self._front(one).alive() and _shows(self._store, one)

    def there(self, one: Attachment) -> bool:
        """Whether the device still is this attachment's."""
        return _shows(self._store, one)

    def resume(self, one: Attachment) -> None:
        """The front connects by itself."""

    def resized(self, one: Attachment, size: int) -> None:
        """Nothing: the file of a front has the size that it had at its start, until the device is attached anew."""

    def wait(self, one: Attachment) -> None:
        """Returns when nothing answers behind the device any more."""
        self._front(one).wait()

    def _front(self, one: Attachment) -> Front:
        return Front(self._store, one.id, one.pid, one.started)


def missing() -> str | None:
    """Why this machine cannot do it; None if it can."""
    for program, package in (("nbdfuse", "libnbd-bin"), ("qemu-nbd", "qemu-utils"), ("losetup", "mount")):
        if shutil.which(program) is None:
            return f"there is no {program} (Debian package {package})"
    for node, what in (("/dev/fuse", "FUSE"), ("/dev/loop-control", "loop devices")):
        if not os.path.exists(node):
            return f"this kernel offers no {what} ({node} is missing)"
    return None


def _make_loop(front: Front, file: Path, *, read_only: bool, block_size: int) -> str:
    """A loop device over a front's file, with sectors of `block_size` bytes; its path. Io if there is none to be had."""
    command = ["losetup", "--find", "--show", "--direct-io=on", "--sector-size", str(block_size)]
    command += ["--read-only", str(file)] if read_only else [str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as losetup:
        try:
            told, said = losetup.communicate(timeout=MAKE_SECONDS)
        except subprocess.TimeoutExpired:
            # It waits for the device's first block, which no signal ends; the end of the front does.
            front.end()
            raise Io(f"the daemon does not answer behind {file}") from None
    if losetup.returncode:
        raise Io(f"no loop device: {said.strip()}")
    return told.strip()


def _end_loops(file: Path) -> None:
    """Detaches what a failure left over a front's file."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError, CdpError):
            if backing.read_text().rstrip("\n").removesuffix(" (deleted)") == str(file):
                _end_loop(f"/dev/{backing.parent.parent.name}")


def _end_loop(device: str) -> None:
    """Detaches a loop device; returns when it has let go of its file. Busy if somebody keeps it open. Nothing if it has none."""
    behind = Path("/sys/block") / Path(device).name / "loop"
    if not behind.exists():
        return
    done = subprocess.run(["losetup", "--detach", device], capture_output=True, text=True, check=False)
    if done.returncode and behind.exists():
        raise Io(f"{device}: {done.stderr.strip()}")
    deadline = time.monotonic() + END_SECONDS
    while behind.exists():
        if time.monotonic() > deadline:
            raise Busy(f"{device} is still open: it goes when the last program closes it; detach it again then")
        time.sleep(STEP_SECONDS)


def _shows(store: Path, one: Attachment) -> bool:
    """Whether the loop device still is the one that was made: others may have taken its number."""
    at = Path("/sys/block") / Path(one.device).name
    if one.diskseq:
        return (at / "loop").exists() and _diskseq(one.device) == one.diskseq
    with suppress(OSError):
        behind = (at / "loop/backing_file").read_text().rstrip("\n")
        return Path(behind).parent == place.front_folder(store, one.id)
    return False


def _diskseq(device: str) -> int:
    with suppress(OSError, ValueError):
        return int((Path("/sys/block") / Path(device).name / "diskseq").read_text())
    return 0
