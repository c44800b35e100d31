"""What is attached, as the daemon of a store notes it for its next run: STORE/attached.json.

Invariants:
- The file is replaced as a whole, before a device is told to anybody and after it is gone: a device that somebody was told is in it.
- It holds for one boot of the machine: devices do not outlive that, and notes of an earlier boot count as none.
- Reading it changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cdp import files
from cdp.errors import Corrupt, NotFound

VERSION = 1
NOTES_BYTES_MAX = 1 << 20
"""Far above what the devices of a machine need; a larger file is not ours."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A block device and what it shows.

    `export` is the name under which the daemon serves it, by the volume's ID: names change. `lsn` None: the live volume.
    `pid`, `started`: the process between device and daemon, if the driver has one, and when it began (clock ticks since the boot).
    """

    id: str
    driver: str
    device: str
    volume_id: str
    name: str
    export: str
    lsn: int | None
    stamp: int | None
    scratch_id: str | None
    owns_scratch: bool
    """The scratch view was made for this device, and is thrown away with it."""
    read_only: bool
    mount: str | None
    """The folder on which `cdp attach --mount` mounts it."""
    timeout_seconds: int
    made_stamp: int
    pid: int = 0
    started: int = 0
    diskseq: int = 0
    """The kernel's number for what a loop device holds; another one: it was taken for something else since. 0: unknown (before Linux 5.15)."""

    @property
    def kind(self) -> str:
        """`live`, `view` or `scratch`."""
        return "live" if self.lsn is None else "view" if self.scratch_id is None else "scratch"

    @property
    def shown(self) -> str:
        """What it shows, in the words of the command line."""
        instant = "" if self.lsn is None else f"@lsn:{self.lsn}"
        return self.name + instant + ("" if self.scratch_id is None else f"+scratch={self.scratch_id}")


def path(store: Path) -> Path:
    """Where the notes of a store are."""
    return store / "attached.json"


def boot_id() -> str:
    """Names this boot of the machine."""
    with files.os_errors("reading the boot's ID"):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read(store: Path) -> list[Attachment]:
    """What is noted of this boot, in the order in which it was attached. Corrupt if the file cannot be understood."""
    where = path(store)
    try:
        with files.os_errors(f"reading {where}"), open(where, "rb") as file:
            content = file.read(NOTES_BYTES_MAX + 1)
    except NotFound:
        return []
    try:
        told = json.loads(content)
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']}")
        return [_attachment(one) for one in told["attached"]] if told["boot"] == boot_id() else []
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{where} does not tell what is attached ({error}): remove it when nothing is") from error


def write(store: Path, attached: Iterable[Attachment]) -> None:
    """Replaces the notes, durably."""
    told = {"version": VERSION, "boot": boot_id(), "attached": [asdict(one) for one in attached]}
    where = path(store)
    with files.os_errors(f"writing {where}"):
        files.replace(where, json.dumps(told, indent=1).encode() + b"\n")


def _attachment(told: dict[str, Any]) -> Attachment:
    known = {field.name: field for field in fields(Attachment)}
    if not known.keys() >= told.keys():
        raise ValueError(f"unknown: {', '.join(told.keys() - known.keys())}")
    return Attachment(**told)
