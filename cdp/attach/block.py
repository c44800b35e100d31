"""Block devices as the kernel tells of them: who uses one, what lies under a folder.

Invariants:
- Only looks, and never waits for a device: what is asked is answered by /proc and /sys. (`claim_failure` opens a device without reading it.)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cdp import devices, files

STACK_MAX = 32
"""Layers of devices under a folder that are looked at: more is a loop."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A block device under a folder: its name in /sys/block, its file if it is a loop device, its back end if it is an nbd device."""

    name: str
    loop_file: Path | None
    nbd_backend: str | None


def device_number(device: str) -> int:
    """The number of a block device; NotFound or Io if there is none."""
    with files.os_errors(f"looking at {device}"):
        return os.stat(device).st_rdev


def in_use(device: str) -> str | None:
    """How a device is used, in a sentence that names the mount; None if it is free. Opens it as mkfs does, exclusively."""
    number = device_number(device)
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno != errno.EBUSY:
            return None  # A device without a back end cannot be opened: nobody uses it.
        for text in _name_spaces():
            if user := devices.user_of(number, mountinfo=text):
                return user
        return "another program has opened it for itself"
    return None


def mounted_on(device: str) -> list[str]:
    """The folders on which a device is mounted, as this process sees them."""
    number = device_number(device)
    mounts = devices.mounts(Path("/proc/self/mountinfo").read_text())
    return [folder for at, source, folder in mounts if number in (at, _source_number(at, source))]


def top_mount(folder: str) -> tuple[int, str] | None:
    """The device number and the source of what is mounted on a folder, and is seen there, as this process sees it; None if it is no mount point."""
    found = None
    for number, source, at in devices.mounts(Path("/proc/self/mountinfo").read_text()):
        # Later lines are mounted over earlier ones.
        if at == folder:
            found = (_source_number(number, source), source)
    return found


def _source_number(number: int, source: str) -> int:
    """The device of a mount that has this number and source: btrfs has numbers of its own, and what it was mounted from is the device."""
    if os.major(number) == 0 and source.startswith("/dev/"):
        with suppress(OSError):
            return os.stat(source).st_rdev
    return number


def under(folder: Path) -> Iterator[Layer]:
    """The block devices under a folder, from the mounted one down. Asks no file system for anything."""
    numbers = [mounted_under(folder)]
    for _ in range(STACK_MAX):
        if not numbers:
            return
        number = numbers.pop()
        if number is None:
            continue
        with suppress(OSError):
            at = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
            if (at / "partition").exists():
                at = at.parent
            layer = Layer(at.name, _path(at / "loop/backing_file"), _text(at / "backend"))
            yield layer
            if layer.loop_file is not None:
                numbers.append(mounted_under(layer.loop_file))
            if (at / "slaves").is_dir():
                numbers += [_number(slave / "dev") for slave in (at / "slaves").iterdir()]


def mounted_under(path: Path) -> int | None:
    """The number of the device whose file system holds a path."""
    found, length = None, -1
    for number, source, folder in devices.mounts(Path("/proc/self/mountinfo").read_text()):
        # Later lines are mounted over earlier ones.
        if path.is_relative_to(folder) and len(folder) >= length:
            found, length = (number, source), len(folder)
    if found is None:
        return None
    return _source_number(*found)


def _name_spaces() -> Iterator[str]:
    """The mounts of this process, then those of every other mount name space."""
    seen = set()
    for process in ("self", *sorted((name for name in os.listdir("/proc") if name.isdecimal()), key=int)):
        with suppress(OSError):
            space = os.readlink(f"/proc/{process}/ns/mnt")
            if space not in seen:
                seen.add(space)
                yield Path(f"/proc/{process}/mountinfo").read_text(errors="replace")


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        major, _, minor = path.read_text().strip().partition(":")
        return os.makedev(int(major), int(minor))
    return None


def _path(path: Path) -> Path | None:
    text = _text(path)
    return Path(text) if text else None


def _text(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(errors="surrogateescape").rstrip("\n")
    return None
