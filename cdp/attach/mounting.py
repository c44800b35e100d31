"""Mounting an attached device, and taking the mount away: done by the command that the user runs, in its own mount name space.

Invariants:
- A file system of an instant is mounted through a scratch view, which it may write to: so it replays its journal, and shows every file that was
  synced. Options that leave the journal alone (noload, norecovery) hide files, and are never used.
- It is mounted read-only, and beside its original: XFS is told to accept the second UUID, btrfs needs a kernel that can.
- Only what shows our device is unmounted; umount would take whatever is on top.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cdp.attach import block
from cdp.errors import Busy, Invalid, Io
from cdp.facts import AttachmentFacts

BTRFS_BESIDE = (6, 7)
"""The first Linux that mounts a btrfs beside another one of the same UUID (temporary fsid)."""


def check_folder(folder: Path) -> Path:
    """The folder's real path; Invalid if nothing can be mounted there, Busy if something is already."""
    real = Path(os.path.realpath(folder))
    if not real.is_dir():
        raise Invalid(f"{folder} is no folder to mount on")
    if (top := block.top_mount(str(real))) is not None:
        raise Busy(f"{folder} is a mount point already, of {top[1]}: choose another folder, or unmount that first")
    return real


def find(attached: Sequence[AttachmentFacts], place: str) -> AttachmentFacts | None:
    """What is attached as a device, or was to be mounted on a folder: of several, the one that is seen there."""
    real = os.path.realpath(place)
    for one in attached:
        if one.device == real:
            return one
    noted = [one for one in attached if one.mount == real]
    top = block.top_mount(real) if noted else None
    seen = [one for one in noted if top is not None and block.device_number(one.device) == top[0]]
    return next(iter([*seen, *noted]), None)


def mount(facts: AttachmentFacts, folder: Path, besides: Sequence[str] = ()) -> None:
    """Mounts an attached device, with options `besides` those that it needs. Invalid if there is no file system on it; Io with the reason if the kernel refuses."""
    kind, uuid = _probe(facts.device, "TYPE"), _probe(facts.device, "UUID")
    if not kind:
        raise Invalid(f"there is no file system on {_shown(facts)}: nothing to mount")
    if kind == "btrfs" and facts.lsn is not None:
        _check_btrfs(facts, uuid)
    options = [*mount_options(kind, instant=facts.lsn is not None, read_only=facts.read_only), *besides]
    done = _run("mount", "-t", kind, *(["-o", ",".join(options)] if options else []), facts.device, str(folder))
    if done.returncode:
        raise Io(f"{_shown(facts)} is not mounted on {folder}: {done.stderr.strip()}")


def mount_options(kind: str, *, instant: bool, read_only: bool) -> list[str]:
    """The options for a file system of a kind. Pure."""
    return [*(["ro"] if instant or read_only else []), *(["nouuid"] if instant and kind == "xfs" else [])]


def unmount(facts: AttachmentFacts) -> None:
    """Takes away what `mount` did, if it still is there. Busy if somebody works in it, or mounted something over it."""
    if facts.mount is None or facts.mount not in block.mounted_on(facts.device):
        return
    top = block.top_mount(facts.mount)
    if top is not None and top[0] != block.device_number(facts.device):
        raise Busy(f"{facts.device} is mounted on {facts.mount}, and {top[1]} over it: unmount that first")
    done = _run("umount", facts.mount)
    if done.returncode:
        raise Busy(f"{facts.device} is mounted on {facts.mount}: {done.stderr.strip()}")


def _check_btrfs(facts: AttachmentFacts, uuid: str) -> None:
    if Path(f"/sys/fs/btrfs/{uuid}").exists() and kernel() < BTRFS_BESIDE:
        wanted = ".".join(map(str, BTRFS_BESIDE))
        raise Invalid(
            f"{_shown(facts)} holds a btrfs that is mounted as {uuid} already: beside its original it needs Linux {wanted}, "
            f"this is {os.uname().release}. Unmount the original first, or restore the instant elsewhere"
        )


def kernel() -> tuple[int, ...]:
    """The first two numbers of its version."""
    found = re.match(r"([0-9]+)\.([0-9]+)", os.uname().release)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def _probe(device: str, what: str) -> str:
    return _run("blkid", "--probe", "--output", "value", "--match-tag", what, device).stdout.strip()


def _shown(facts: AttachmentFacts) -> str:
    return facts.volume if facts.lsn is None else f"{facts.volume}@lsn:{facts.lsn}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Io(f"{command[0]} cannot be run: {error.strerror}") from error
