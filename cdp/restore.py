"""Restoring: a volume as it was at an instant, written somewhere else.

Invariants:
- WHEN is resolved once; everything after speaks of that LSN.
- The volume is opened for looking only, in this process: nothing of the store changes, and the daemon, if there is one, is not in the way.
- Nothing is reported as restored before it is durable and, if asked, compared.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdp.catalog import Catalog
from cdp.errors import Corrupt, Io
from cdp.facts import InstantFacts
from cdp.store import Progress, Store
from cdp.targets import Target, open_target
from cdp.volume import OpenVolume
from cdp.when import When

if TYPE_CHECKING:
    from cdp import _native

Stage = Callable[[str], AbstractContextManager[Progress]]
"""Begins a stage of long work ("restoring", "comparing") and yields whom to tell of its progress."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to restore. `force`: replace a file. `allow_damage`: keep the rest if blocks of the volume cannot be read."""

    volume: str
    at: When
    target: str
    force: bool = False
    verify: bool = False
    allow_damage: bool = False


@dataclass(frozen=True, slots=True)
class DamageFacts:
    """Bytes of the volume that could not be read, and why."""

    offset: int
    length: int
    why: str


@dataclass(frozen=True, slots=True)
class RestoreFacts:
    """What was restored. `written_bytes`: what was written as data. `damage`: what could not be read, the first 1,000; zeros stand there."""

    volume: str
    id: str
    instant: InstantFacts
    target: str
    size: int
    written_bytes: int
    verified: bool
    damage: tuple[DamageFacts, ...]
    damaged_bytes: int


def restore(store: Store, path: Path, order: Order, stage: Stage) -> RestoreFacts:
    """Writes the volume as it was. `store`: whom to ask for the instant; `path`: where the store's files are.

    Errors: NotFound (volume, instant), Invalid and Busy (a target that must not be written to), Corrupt (blocks cannot be read, and
    `allow_damage` does not say to go on), NoSpace, Io (also: the target did not keep what was written).
    """
    catalog = Catalog(path)
    entry = catalog.find(order.volume, deleted=True)
    instant = store.resolve(entry.id, order.at)
    volume = OpenVolume(entry, read_only=True)
    try:
        view = volume.native.view(instant.lsn)
        target = open_target(order.target, view.size, catalog, force=order.force)
        try:
            done = _write(target, view, order, stage)
            target.sync()
            # A view with unreadable blocks cannot be compared: what stands there is known to be missing.
            verified = order.verify and not done["faults"]
            if verified:
                _compare(target, view, stage)
            target.finish()
            return RestoreFacts(
                volume=entry.name,
                id=entry.id,
                instant=instant,
                target=target.name,
                size=view.size,
                written_bytes=done["written_bytes"],
                verified=verified,
                damage=tuple(DamageFacts(*fault) for fault in done["faults"]),
                damaged_bytes=done["fault_bytes"],
            )
        finally:
            target.abandon()
    finally:
        volume.close()


def _write(target: Target, view: _native.View, order: Order, stage: Stage) -> _native.Restored:
    with stage("restoring") as progress:
        done = target.write(view, progress)
    if done["faults"] and not order.allow_damage:
        more = f" ({done['fault_bytes']} bytes in all)" if len(done["faults"]) > 1 else ""
        raise Corrupt(f"{done['faults'][0][2]}{more} (--allow-damage restores the rest, with zeros there)")
    return done


def _compare(target: Target, view: _native.View, stage: Stage) -> None:
    with stage("comparing") as progress:
        offset = target.compare(view, progress)
    if offset is not None:
        raise Io(f"{target.name} does not hold what was written to it: it differs at offset {offset}")
