"""The daemon's part of groups: their volumes are open from its start on, and notes say up to when nothing of them can be lost.

Without the notes, the gap that a crash leaves would begin at the last record of the volume that was silent longest: a journal does not say that
nothing was written since.

Invariants:
- A note is written after everything that it speaks of is durable, and never for a volume that is not open or whose journal failed.
- Only a volume that is silent is flushed for that, once.
- What the journals tell of gaps is in the group's file before a note goes on: a gap begins by the note as the crash left it.
- A volume, or a group, that fails holds up no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import trio

from cdp.catalog import Catalog
from cdp.errors import CdpError
from cdp.group_files import Group
from cdp.group_instants import member
from cdp.group_verbs import LocalGroups, unfinished
from cdp.table import Table
from cdp.volume import OpenVolume
from cdp.when import rfc3339

log = logging.getLogger("cdp.groups")

ROUND_SECONDS = 5.0
"""Between two notes of a group whose volumes are written to: how much longer than necessary a gap may be."""
IDLE_SECONDS = 60.0
"""The same while nothing is written."""


@dataclass(frozen=True, slots=True)
class _Noted:
    """A group's last note: when (monotonic seconds), the newest LSN of each volume, and whether all volumes are in it."""

    when: float = 0.0
    lsns: Mapping[str, int] = field(default_factory=dict)
    whole: bool = False


class GroupKeeper:
    """What is done at the daemon's start, and again and again. What goes wrong is logged, once for each cause."""

    def __init__(self, catalog: Catalog, groups: LocalGroups, table: Table) -> None:
        self._catalog = catalog
        self._groups = groups
        self._table = table
        self._noted: dict[str, _Noted] = {}
        self._logged: dict[str, str] = {}

    def begin(self) -> None:
        """Opens the volumes of all groups, so that what a crash left has its gap, and the gap its end, before the first client writes."""
        for group in self._groups.files.groups():
            for volume_id in group.volumes:
                # One that cannot be opened is told of in the log, and keeps the others from nothing.
                with suppress(CdpError), self._table.writing(self._catalog.get(volume_id)):
                    pass
            try:
                _tell(group, self._groups.complete(group.id))
            except CdpError as error:
                self._log(group, error)
        self.round()

    def round(self) -> None:
        """Notes what cannot be lost any more."""
        for group in self._groups.files.groups():
            try:
                with ExitStack() as held:
                    borrowed = [held.enter_context(self._table.borrowed(it)) for it in group.volumes]
                    self._note(group, [volume for volume in borrowed if volume is not None])
                self._logged.pop(group.id, None)
            except CdpError as error:
                self._log(group, error)

    def _note(self, group: Group, volumes: list[OpenVolume]) -> None:
        before = self._noted.get(group.id, _Noted())
        newest = {volume.entry.id: volume.native.latest().lsn for volume in volumes}
        if before.whole and newest == before.lsns and time.monotonic() - before.when < IDLE_SECONDS:
            return
        safe = self._groups.files.notes(group.id)
        self._groups.learn(group.id, [member(group, volume, safe) for volume in volumes])
        asked = [(volume.entry.id, _durable_until(volume, before.lsns.get(volume.entry.id))) for volume in volumes]
        fresh = {volume_id: stamp for volume_id, stamp in asked if stamp is not None}
        kept = {volume_id: stamp for volume_id, stamp in safe.items() if volume_id in group.volumes}
        self._groups.files.write_notes(group.id, {**kept, **fresh})
        self._noted[group.id] = _Noted(time.monotonic(), newest, whole=len(fresh) == len(volumes))

    def _log(self, group: Group, error: CdpError) -> None:
        if self._logged.get(group.id) != str(error):
            self._logged[group.id] = str(error)
            log.warning("group %s: %s", group.name, error)


def _tell(before: Group, now: Group) -> None:
    for gap in now.gaps:
        if gap not in before.gaps:
            ends = (now.name, rfc3339(gap.since), rfc3339(gap.until), gap.kind)
            log.warning("group %s has no instants from %s to before %s: %s", *ends)
    if (sentence := unfinished(now)) is not None:
        log.warning("group %s: %s", now.name, sentence)


def _durable_until(volume: OpenVolume, before: int | None) -> int | None:
    """A stamp at or before which everything is durable by now; None if that is not so. `before`: the newest LSN a round ago."""
    native = volume.native
    try:
        # Whatever comes after this look has a later stamp.
        now = time.time_ns()
        lsn = native.instant_at(now).lsn
        if int(native.status()["durable_lsn"] or 0) < lsn:
            if lsn != before:
                # It is being written to: its own records tell how far it came, and a flush would be a flush point that no client asked for.
                return None
            native.flush()
        return now
    except CdpError:
        # Poisoned, or closed meanwhile: the last note counts.
        return None


async def keep_groups(keeper: GroupKeeper) -> None:
    """Runs until it is cancelled; a round that has begun is finished first."""
    while True:
        await trio.sleep(ROUND_SECONDS)
        await trio.to_thread.run_sync(keeper.round)
