"""A disk of its own for a store, small, that is really full once its bytes are used.

`tmpfs` takes no privilege: a process of this user's holds it in a name space of its own, and whoever runs as the same user gets at it through /proc.
The others are files mounted through a loop device, which takes root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rig.process import run

MIB = 1 << 20
HOLD = 'mount -t tmpfs -o "size=$1" cdp "$2" && echo mounted && exec cat'
"""Ends when its standard input does, and with it the mount."""
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-m", "0", "-b", "4096", "-J", "size=4"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q", "--mixed"),
}
LEAST_BYTES = {"xfs": 320 * MIB}


class NoDisk(AssertionError):
    """It cannot be had on this machine, or not by this user."""


@contextmanager
def small_disk(kind: str, bytes_: int, folder: Path) -> Iterator[Path]:
    """An empty file system of about `bytes_`, mounted at `folder`; the path that leads to it. NoDisk where there is none."""
    with _held(bytes_, folder) if kind == "tmpfs" else _looped(kind, bytes_, folder) as path:
        yield path


@contextmanager
def _held(bytes_: int, folder: Path) -> Iterator[Path]:
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", HOLD, "sh", str(bytes_), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        said = holder.stdout.readline()
        if said != b"mounted\n":
            raise NoDisk(f"no tmpfs in a name space: {(said + holder.stdout.read()).decode(errors='replace').strip()}")
        try:
            yield Path(f"/proc/{holder.pid}/root{folder}")
        finally:
            holder.stdin.close()


@contextmanager
def _looped(kind: str, bytes_: int, folder: Path) -> Iterator[Path]:
    image = folder.parent / "disk.img"
    with image.open("wb") as file:
        file.truncate(max(bytes_, LEAST_BYTES.get(kind, 0)))
    for command in ((*MAKE[kind], str(image)), ("mount", "-o", "loop", str(image), str(folder))):
        try:
            done = run(*command, exit_code=None)
        except OSError as error:
            raise NoDisk(f"no {kind}: {error}") from error
        if done.returncode:
            raise NoDisk(f"no {kind}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        run("umount", folder)


def leave(file: Path, room: int) -> None:
    """Makes `file`, so large that `room` bytes are left on its disk."""
    disk = os.statvfs(file.parent)
    run("fallocate", "--length", str(disk.f_bavail * disk.f_frsize - room), file)
