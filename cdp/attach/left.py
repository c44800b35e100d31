"""The devices of a store that has no daemon, and what everybody needs to know of one: wishes, drivers, facts.

Invariant:
- What somebody uses is not taken away.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cdp import config, files
from cdp.attach import block, notes
from cdp.attach.fuse_loop import FuseLoop
from cdp.attach.kernel_nbd import KernelNbd, Link
from cdp.attach.notes import Attachment
from cdp.errors import Busy, Closed, NotFound
from cdp.facts import AttachmentFacts

TIMEOUT_SECONDS = 300
"""How long reads and writes wait for a daemon that is gone, unless told otherwise: ample for a restart or an upgrade."""
TIMEOUT_SECONDS_MAX = 7 * 86400


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be attached: an export's name and how. `driver` None: what the machine has. `mount`: where the caller is going to mount it."""

    export: str
    read_only: bool = False
    driver: str | None = None
    mount: str | None = None
    timeout_seconds: int = TIMEOUT_SECONDS


class Driver(Protocol):
    """A way to make block devices."""

    name: str

    def missing(self) -> str | None:
        """Why this machine does not have it; None if it does."""

    def make(self, one: Attachment, block_size: int, size: int) -> Attachment:
        """Makes the device; the attachment with its path."""

    def end(self, one: Attachment) -> None:
        """Takes the device away; nobody uses it. Idempotent. Busy if it is kept open."""

    def leave(self) -> None:
        """The daemon ends, and leaves the devices to the next one."""

    def cut(self, one: Attachment) -> None:
        """Ends what is behind the device: reads and writes fail from now on."""

    def works(self, one: Attachment) -> bool:
        """Whether something answers behind the device, or will."""

    def there(self, one: Attachment) -> bool:
        """Whether the device still is this attachment's."""

    def resume(self, one: Attachment) -> None:
        """Connects the device that an earlier daemon left."""

    def resized(self, one: Attachment, size: int) -> None:
        """The live volume behind the device has another size, in bytes; the device gets it if it can."""

    def wait(self, one: Attachment) -> None:
        """Returns when nothing answers behind the device any more."""


class Attaching(Protocol):
    """Who knows what is attached."""

    def attach(self, wish: Wish) -> AttachmentFacts:
        """Makes a device."""

    def detach(self, device: str) -> AttachmentFacts:
        """Takes one away. NotFound if it is none of ours; Busy, with the mount, if it is in use."""

    def facts(self) -> list[AttachmentFacts]:
        """All of them, in the order in which they were attached."""

    def resized(self, volume_id: str, size: int) -> None:
        """A volume has another size, in bytes."""

    def refuse(self, volume_id: str, what: str, scratch_id: str | None = None) -> None:
        """Busy if `what` cannot be done because a device shows the volume, or that scratch view of it."""


class Left:
    """The devices of a store that has no daemon: what its last one noted."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def attach(self, wish: Wish) -> AttachmentFacts:
        raise Closed(f"attaching {wish.export[:200]} takes the daemon, which owns the device: start cdp serve")

    def detach(self, device: str) -> AttachmentFacts:
        """Takes a device away that a daemon left behind. Busy if there is a daemon after all."""
        lock = config.daemon_lock(self._store)
        with files.locked(lock, wait=False, busy="the daemon runs, but does not answer", create=True):
            return self._detach(device)

    def _detach(self, device: str) -> AttachmentFacts:
        left = notes.read(self._store)
        one = find_device(left, device)
        driver = drivers(self._store)[one.driver]
        end_device(driver, one)
        notes.write(self._store, [it for it in left if it.id != one.id])
        return attachment_facts(one, "detached")

    def facts(self) -> list[AttachmentFacts]:
        by_name = drivers(self._store)
        return [
            attachment_facts(one, "lost" if one.kind == "scratch" else state_of(by_name[one.driver], one))
            for one in notes.read(self._store)
        ]

    def resized(self, volume_id: str, size: int) -> None:
        """The next daemon's connections tell it."""

    def refuse(self, volume_id: str, what: str, scratch_id: str | None = None) -> None:
        refuse_attached(notes.read(self._store), volume_id, what, scratch_id)


def drivers(store: Path, link: Link | None = None) -> dict[str, Driver]:
    """Those that there are, the better ones first. `link`: how the daemon begins a session (cdp/attach/links.py)."""
    return {driver.name: driver for driver in (KernelNbd(store, link), FuseLoop(store))}


def end_device(driver: Driver, one: Attachment) -> None:
    if driver.there(one) and (user := block.in_use(one.device)) is not None:
        raise Busy(f"{one.device} is in use: {user}")
    driver.end(one)


def find_device(attached: Sequence[Attachment], device: str) -> Attachment:
    # No path has a NUL.
    wanted = "" if "\0" in device else os.path.realpath(device)
    for one in attached:
        if one.device == wanted:
            return one
    raise NotFound(f"{device[:200]} is not attached by this store (cdp list shows what is)")


def refuse_attached(attached: Sequence[Attachment], volume_id: str, what: str, scratch_id: str | None) -> None:
    for one in attached:
        if one.volume_id == volume_id and (scratch_id is None or one.scratch_id == scratch_id):
            if scratch_id is None and what != "deleted" and one.kind != "live":
                continue
            raise Busy(f"{one.shown} cannot be {what} while it is attached: cdp detach {one.device}")


def state_of(driver: Driver, one: Attachment) -> str:
    return "ok" if driver.works(one) else "lost"


def attachment_facts(one: Attachment, state: str, name: str | None = None) -> AttachmentFacts:
    return AttachmentFacts(
        device=one.device,
        volume_id=one.volume_id,
        volume=name or one.name,
        lsn=one.lsn,
        stamp=one.stamp,
        scratch_id=one.scratch_id,
        read_only=one.read_only,
        driver=one.driver,
        mount=one.mount,
        state=state,
        made_stamp=one.made_stamp,
    )
