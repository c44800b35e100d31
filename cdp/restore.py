"""Restoring: a volume as it was at an instant, written somewhere else.

Invariants:
- WHEN is resolved once; everything after speaks of that LSN.
- The volume is opened for looking only, in this process: nothing of the store changes, and the daemon, if there is one, is not in the way.
- Damage is believed only when a second opening shows it, too: the daemon may have moved what the first one knew of.
- Nothing is reported as restored before it is durable and, if asked, compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdp.catalog import Catalog, Entry
from cdp.errors import Corrupt, Invalid, Io, NotFound
from cdp.facts import InstantFacts
from cdp.nbd_target import FAULTS_MAX
from cdp.store import Progress, Store
from cdp.target_notes import Content
from cdp.targets import Target, open_target
from cdp.volume import OpenVolume
from cdp.when import When

if TYPE_CHECKING:
    from cdp import _native

Stage = Callable[[str], AbstractContextManager[Progress]]
"""Begins a stage of long work ("restoring", "comparing") and yields whom to tell of its progress."""

_CHANGES_MAX = 1 << 20
"""Ranges that two instants may differ in before all is compared instead: memory."""
_OPENINGS_MAX = 5
"""Of the volume, while each shows less damage than the one before."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to restore. `force`: overwrite a file. `allow_damage`: keep the rest if blocks of the volume cannot be read."""

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
    """What was restored. `written_bytes`: written as data; `cleared_bytes`: made holes; `resumed_bytes`: done by an earlier run that did not end.
    `damage`: what could not be read, the first 1,000; zeros stand there."""

    volume: str
    id: str
    instant: InstantFacts
    target: str
    size: int
    written_bytes: int
    cleared_bytes: int
    resumed_bytes: int
    verified: bool
    damage: tuple[DamageFacts, ...]
    damaged_bytes: int


def restore(store: Store, path: Path, order: Order, stage: Stage) -> RestoreFacts:
    """Makes the target hold the volume as it was. `store`: whom to ask for the instant; `path`: where the store's files are.

    Errors: NotFound (volume, instant), Invalid and Busy (a target that must not be written to), Corrupt (blocks cannot be read, and
    `allow_damage` does not say to go on), NoSpace, Io (also: the target did not keep what was written). A note of the exception says
    what was left behind, if anything was.
    """
    catalog = Catalog(path)
    entry = catalog.find(order.volume, deleted=True)
    instant = store.resolve(entry.id, order.at)
    with store.hold(entry.id, instant.lsn):
        return _restore_held(catalog, entry, instant, order, stage)


def _restore_held(catalog: Catalog, entry: Entry, instant: InstantFacts, order: Order, stage: Stage) -> RestoreFacts:
    source = _Source(entry, instant)
    try:
        target = open_target(order.target, source.content, catalog, force=order.force)
        try:
            return _restore(entry, source, target, order, stage)
        except BaseException as error:
            if target.left is not None:
                error.add_note(target.left)
            raise
        finally:
            target.abandon()
    finally:
        source.close()


class _Source:
    """The volume at the instant, opened anew when what it shows is doubted."""

    def __init__(self, entry: Entry, instant: InstantFacts) -> None:
        self._entry = entry
        self.instant = instant
        self._open()
        origin = entry.description.origin
        self.content = Content(
            volume=entry.id,
            lsn=instant.lsn,
            stamp=instant.stamp,
            size=self.view.size,
            origin="" if origin is None else f"{origin.kind} {origin.path} {origin.identity} {origin.changed_stamp}",
        )

    def _open(self) -> None:
        self._volume = OpenVolume(self._entry, read_only=True)
        try:
            self.view = self._volume.native.view(self.instant.lsn)
        except BaseException:
            self._volume.close()
            raise

    def reopen(self) -> None:
        self._volume.close()
        self._open()

    def close(self) -> None:
        self._volume.close()

    def changes_since(self, base: Content | None) -> list[tuple[int, int]] | None:
        """Ranges (start, end) outside of which the instant is the same as `base`; None if that is not known."""
        here = self.content
        if base is None or (base.volume, base.origin) != (here.volume, here.origin):
            return None
        native = self._volume.native
        # The instant may be gone, or be another one in a copy of the store that went on by itself.
        with suppress(NotFound, Invalid, Io, Corrupt):
            if native.instant_of_lsn(base.lsn).stamp == base.stamp:
                changes = self.view.changed(native.view(base.lsn), 0, here.size, _CHANGES_MAX)
                if len(changes) < _CHANGES_MAX:
                    return [(offset, offset + length) for offset, length in changes]
        return None


def _restore(entry: Entry, source: _Source, target: Target, order: Order, stage: Stage) -> RestoreFacts:
    done = _nothing_done()
    if target.holds != source.content:
        ranges = source.changes_since(target.holds)
        target.begin()
        with stage("restoring") as progress:
            done = _write(source, target, ranges, progress)
        if done["faults"] and not order.allow_damage:
            more = f" ({done['fault_bytes']} bytes in all)" if len(done["faults"]) > 1 else ""
            raise Corrupt(f"{done['faults'][0][2]}{more} (--allow-damage restores the rest, with zeros there)")
        target.sync()
    # A view with unreadable blocks cannot be compared: what stands there is known to be missing.
    whole = not done["faults"]
    if order.verify and whole:
        _compare(source, target, stage)
    target.finish(whole=whole)
    return RestoreFacts(
        volume=entry.name,
        id=entry.id,
        instant=source.instant,
        target=target.name,
        size=source.view.size,
        written_bytes=done["written_bytes"],
        cleared_bytes=done["cleared_bytes"],
        resumed_bytes=done["found_done_bytes"],
        verified=order.verify and whole,
        damage=tuple(DamageFacts(*fault) for fault in done["faults"]),
        damaged_bytes=done["fault_bytes"],
    )


def _write(
    source: _Source, target: Target, ranges: Sequence[tuple[int, int]] | None, progress: Progress
) -> _native.Restored:
    done = _nothing_done()
    for left in reversed(range(_OPENINGS_MAX)):
        try:
            more = target.write(source.view, progress, ranges)
        except (Corrupt, NotFound):
            # The index itself could not be read.
            if not left:
                raise
            source.reopen()
            continue
        believed = more["faults"] == done["faults"]
        done = _added(done, more)
        if believed or not left:
            break
        if len(done["faults"]) < FAULTS_MAX:
            ranges = [(offset, offset + length) for offset, length, _ in done["faults"]]
        source.reopen()
    return done


def _nothing_done() -> _native.Restored:
    return {"written_bytes": 0, "cleared_bytes": 0, "found_done_bytes": 0, "fault_bytes": 0, "faults": []}


def _added(done: _native.Restored, more: _native.Restored) -> _native.Restored:
    """What both did; the faults are those of the later look."""
    return {
        "written_bytes": done["written_bytes"] + more["written_bytes"],
        "cleared_bytes": done["cleared_bytes"] + more["cleared_bytes"],
        "found_done_bytes": done["found_done_bytes"] + more["found_done_bytes"],
        "fault_bytes": more["fault_bytes"],
        "faults": more["faults"],
    }


def _compare(source: _Source, target: Target, stage: Stage) -> None:
    with stage("comparing") as progress:
        try:
            offset = target.compare(source.view, progress)
        except (Corrupt, NotFound):
            source.reopen()
            offset = target.compare(source.view, progress)
    if offset is not None:
        raise Io(f"{target.name} does not hold what was written to it: it differs at offset {offset}")
