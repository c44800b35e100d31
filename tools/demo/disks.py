"""The demo's file system: an ext4 on the volume, reached through NBD clients that know nothing of this project.

`MountedDisk` is the real thing: nbdfuse turns the export into a file, a loop device makes a block device of it, and the kernel's ext4 is mounted
from that. It needs root, FUSE and loop devices. Where those are missing, `CopiedDisk` makes a new ext4 image of a folder at each `sync` and copies
it to the export with nbdcopy: the same bytes travel, but nothing is caught in the middle of its work.
Both undo everything on every way out, in the reverse order of making it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.rig.process import ProgramFailed, run

APPEAR_SECONDS = 10.0
APPEAR_STEP_SECONDS = 0.01


class Disk(Protocol):
    """A folder whose files live on the volume once `sync` has returned."""

    folder: Path
    live: bool
    """Whether the volume follows every change at once, or only at a `sync`."""

    def sync(self) -> None: ...


def make_image(image: Path, size_bytes: int, files: Path) -> None:
    """An ext4 of `size_bytes` with a copy of all `files`."""
    with image.open("wb") as made:
        made.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-F", "-L", "demo", "-d", files, image)


@dataclass(slots=True)
class MountedDisk:
    folder: Path
    live: bool = True

    def sync(self) -> None:
        """All that was written so far is on the volume, and flushed, when this returns."""
        run("sync", "--file-system", self.folder)


@dataclass(slots=True)
class CopiedDisk:
    folder: Path
    image: Path
    size_bytes: int
    uri: str
    live: bool = False

    def sync(self) -> None:
        make_image(self.image, self.size_bytes, self.folder)
        run("nbdcopy", "--flush", self.image, self.uri)


def can_mount() -> str | None:
    """None, or why a file system on the volume cannot be mounted here."""
    if os.geteuid() != 0:
        return "not root"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(device, os.R_OK | os.W_OK):
            return f"no {device}"
    return None


@contextlib.contextmanager
def open_disk(uri: str, scratch: Path, files: Path, size_bytes: int) -> Iterator[Disk]:
    """Puts `files` on the volume as an ext4, mounts it if possible, and yields the disk."""
    image = scratch / "first.img"
    make_image(image, size_bytes, files)
    run("nbdcopy", "--flush", image, uri)
    image.unlink()
    with contextlib.ExitStack() as cleanup:
        why_not = can_mount()
        if why_not is None:
            try:
                yield _mount(uri, scratch, cleanup)
                return
            except _CannotMount as refused:
                why_not = str(refused)
                cleanup.close()
        print(f"  (cannot mount here: {why_not}; whole images are copied instead)")
        folder = scratch / "files"
        shutil.copytree(files, folder, symlinks=True)
        yield CopiedDisk(folder, image, size_bytes, uri)


class _CannotMount(Exception):
    """This machine refused a step of mounting."""


def _mount(uri: str, scratch: Path, cleanup: contextlib.ExitStack) -> MountedDisk:
    try:
        return MountedDisk(mounted(uri, scratch, cleanup))
    except (ProgramFailed, OSError) as refused:
        raise _CannotMount(str(refused).splitlines()[0]) from refused


def mounted(uri: str, scratch: Path, cleanup: contextlib.ExitStack) -> Path:
    """The folder where the ext4 on an export is mounted, until `cleanup`. `scratch` may be there already. ProgramFailed or OSError if the machine refuses."""
    fuse, folder = scratch / "fuse", scratch / "mnt"
    fuse.mkdir(parents=True)
    folder.mkdir()
    _start_nbdfuse(fuse, uri, cleanup)
    loop = run("losetup", "--find", "--show", "--direct-io=on", fuse / "disk").stdout.strip()
    cleanup.callback(run, "losetup", "--detach", loop)
    run("mount", "-t", "ext4", loop, folder)
    cleanup.callback(run, "umount", folder)
    return folder


def _start_nbdfuse(fuse: Path, uri: str, cleanup: contextlib.ExitStack) -> None:
    # A session of its own: Ctrl-C must not take the disk away from under the mount before that is undone.
    process = subprocess.Popen(["nbdfuse", "-C", "4", str(fuse / "disk"), uri], start_new_session=True)
    cleanup.callback(_end_nbdfuse, process, fuse)
    deadline = time.monotonic() + APPEAR_SECONDS
    while not (fuse / "disk").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise _CannotMount("nbdfuse does not start")
        time.sleep(APPEAR_STEP_SECONDS)


def _end_nbdfuse(process: subprocess.Popen[bytes], fuse: Path) -> None:
    if process.poll() is None:
        # A loop device lets go of its file a moment after it was detached; a lazy unmount waits for that by itself.
        run("fusermount3", "-u", "-z", fuse)
        try:
            process.wait(APPEAR_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
