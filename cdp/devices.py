"""Who uses a block device: what /proc and /sys say, so that a refusal can name the user.

Invariants:
- Only looks. The kernel's own claim (opening with O_EXCL) has the last word; this makes its answer readable, and sees what it does not.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

_SYS = Path("/sys/dev/block")


def user_of(device: int, mountinfo: str | None = None, swaps: str | None = None) -> str | None:
    """How a device number, one of its partitions or the disk that it is a partition of is used; None if nobody is known.

    `mountinfo`, `swaps`: the texts of /proc/self/mountinfo and /proc/swaps, read if not given.
    """
    family = _family(device)
    for numbers, source, folder in mounts(_read("/proc/self/mountinfo") if mountinfo is None else mountinfo):
        if numbers in family or _number(source) in family:
            return f"it is mounted on {folder}"
    for line in (_read("/proc/swaps") if swaps is None else swaps).splitlines()[1:]:
        if _number(line.split()[0]) in family:
            return "it is used as swap"
    for number in family:
        with suppress(OSError):
            holders = sorted(os.listdir(_SYS / _text(number) / "holders"))
            if holders:
                return f"it is part of {holders[0]}"
    return None


def loop_file(device: int) -> Path | None:
    """The file behind a loop device."""
    with suppress(OSError):
        return Path((_SYS / _text(device) / "loop" / "backing_file").read_text().rstrip("\n"))
    return None


def loop_on(path: Path) -> str | None:
    """A loop device that has the file behind it."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if os.path.samefile(backing.read_text().rstrip("\n"), path):
                return f"/dev/{backing.parent.parent.name}"
    return None


def _family(device: int) -> set[int]:
    family = {device}
    with suppress(OSError):
        folder = (_SYS / _text(device)).resolve(strict=True)
        for inside in folder.iterdir():
            if (inside / "partition").exists():
                family.add(_parse((inside / "dev").read_text()))
        if (folder / "partition").exists():
            family.add(_parse((folder.parent / "dev").read_text()))
    return family


def mounts(mountinfo: str) -> list[tuple[int, str, str]]:
    """Device number, source and folder of each line of a mountinfo text."""
    found = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        with suppress(ValueError, IndexError):
            # Optional fields end at a lone "-"; type and source follow. proc(5)
            source = fields[fields.index("-") + 2]
            found.append((_parse(fields[2]), _plain(source), _plain(fields[4])))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)


def _number(path: str) -> int | None:
    if not path.startswith("/"):
        return None
    with suppress(OSError, ValueError):
        status = os.stat(path)
        if stat.S_ISBLK(status.st_mode):
            return status.st_rdev
    return None


def _parse(text: str) -> int:
    major, _, minor = text.strip().partition(":")
    return os.makedev(int(major), int(minor))


def _text(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""
