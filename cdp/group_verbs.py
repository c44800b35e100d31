"""What can be done with groups of volumes: one interface, whether the daemon does it (cdp/control/group_client.py) or we do it on the files.

Invariants:
- All volumes are looked at, and everything that could refuse is asked, before the first of them is changed.
- What changes several volumes is noted in the group's file before the first change and until after the last: a kill in between is visible.
  A bookmark is completed by the next change of the group, or the daemon's next start; a rollback by running it again.
- A failure in between is undone on the volumes that were changed, as far as they let us.
- A volume of a group is not deleted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from cdp.branching import roll_back
from cdp.catalog import Catalog, Entry
from cdp.errors import Busy, CdpError, Invalid, NotFound
from cdp.facts import BookmarkFacts, RollbackFacts
from cdp.group_facts import (
    GroupBookmarkFacts,
    GroupFacts,
    GroupInstantFacts,
    GroupMemberFacts,
    GroupRollbackFacts,
    GroupShowFacts,
    GroupVolumeInstantFacts,
)
from cdp.group_files import DamagedGroup, Gap, Group, GroupFiles, Pending, with_gaps
from cdp.group_gaps import ROLLBACK, Member, learned
from cdp.group_instants import Common, Standing
from cdp.names import check_name
from cdp.volume import OpenVolume, instant_facts
from cdp.when import At, AtLsn, Moment, When, rfc3339

if TYPE_CHECKING:
    from cdp.attach.left import Attaching
    from cdp.store import Opener

BOOKMARK = "bookmark"
Undo = Callable[[], object]
Undos = list[Undo]
Opening = Callable[[Entry], AbstractContextManager[OpenVolume]]
VOLUMES_MAX = 256
"""Of a group: each verb has all of them open at once."""


class GroupVerbs(Protocol):
    """The verbs. A group is given by its name or ID, a volume likewise. Errors are those of `cdp.errors`."""

    def list(self) -> list[GroupFacts]: ...
    def show(self, group: str) -> GroupShowFacts: ...
    def create(self, name: str, volumes: Sequence[str]) -> GroupFacts: ...
    def rename(self, group: str, name: str) -> GroupFacts: ...
    def add(self, group: str, volumes: Sequence[str]) -> GroupFacts: ...
    def remove(self, group: str, volume: str) -> GroupFacts:
        """Takes a volume out of the group; both stay."""

    def delete(self, group: str) -> GroupFacts:
        """The group goes, its volumes and their history stay."""

    def resolve(self, group: str, wanted: When) -> GroupInstantFacts:
        """One instant of all volumes. NotFound where there is none, and why; Invalid for an LSN, which belongs to one volume."""

    def bookmark(
        self, group: str, name: str, at: When, *, force: bool, held: bool = False, expires_stamp: int | None = None
    ) -> GroupBookmarkFacts:
        """Names one instant on all volumes: on all of them, or on none."""

    def remove_bookmark(self, group: str, name: str) -> GroupBookmarkFacts: ...
    def rollback(self, group: str, to: When | None, *, force: bool) -> GroupRollbackFacts:
        """All volumes go on from one instant. `to` None: from before the newest rollback of the group."""


class LocalGroups:
    """The verbs, on the files of a store."""

    def __init__(self, catalog: Catalog, opener: Opener, attaching: Attaching) -> None:
        self._catalog = catalog
        self._opener = opener
        self._attaching = attaching
        self.files = GroupFiles(catalog)
        # One change of all volumes of a group at a time. Other processes are kept out by the locks of the volumes.
        self.changing = threading.Lock()

    def list(self) -> list[GroupFacts]:
        return [self._facts(group) for group in self.files.entries()]

    def show(self, group: str) -> GroupShowFacts:
        found = self.files.find(group)
        known = GroupShowFacts(self._facts(found), None, None, (), (), found.undo, unfinished(found))
        try:
            with self._standing(found) as now:
                return replace(
                    known, oldest_stamp=now.oldest, latest_stamp=now.latest, gaps=now.gaps(), bookmarks=now.bookmarks()
                )
        except CdpError as error:
            # What is known without the volumes is still told.
            return replace(known, problems=(str(error),))

    def create(self, name: str, volumes: Sequence[str]) -> GroupFacts:
        check_name(name, "group")
        entries = self._entries(volumes)
        group = self.files.create(name, tuple(entry.id for entry in entries), time.time_ns())
        self._learn(group)
        return self._facts(group)

    def rename(self, group: str, name: str) -> GroupFacts:
        found = self.files.find(group)
        return self._facts(self.files.change(found.id, lambda it: replace(it, name=name)))

    def add(self, group: str, volumes: Sequence[str]) -> GroupFacts:
        entries = self._entries(volumes)

        def more(it: Group) -> Group:
            _refuse_unfinished(it)
            new = tuple(entry.id for entry in entries if entry.id not in it.volumes)
            _check_count(len(it.volumes) + len(new))
            return replace(it, volumes=(*it.volumes, *new))

        changed = self.files.change(self.files.find(group).id, more)
        self._learn(changed)
        return self._facts(changed)

    def remove(self, group: str, volume: str) -> GroupFacts:
        found = self.files.find(group)
        named = [member.id for member in self._members(found) if volume in (member.name, member.id)]
        if not named:
            raise NotFound(f"{found.name} has no volume {volume[:200]!r}")

        def fewer(it: Group) -> Group:
            _refuse_unfinished(it)
            left = tuple(one for one in it.volumes if one != named[0])
            if not left:
                raise Invalid(f"{it.name} has no other volume: cdp group delete {it.name} removes the group")
            # What it saw of the volume would hide events if the volume came back with others since.
            return replace(it, volumes=left, seen={one: lsn for one, lsn in it.seen.items() if one != named[0]})

        return self._facts(self.files.change(found.id, fewer))

    def delete(self, group: str) -> GroupFacts:
        damaged = [one for one in self.files.entries() if isinstance(one, DamagedGroup) and one.id == group]
        found = damaged[0] if damaged else self.files.find(group)
        facts = self._facts(found)
        self.files.delete(found.id)
        return facts

    def resolve(self, group: str, wanted: When) -> GroupInstantFacts:
        found = self.files.find(group)
        with self._standing(found) as now:
            common = now.resolve(wanted, time.time_ns())
            volumes = tuple(
                GroupVolumeInstantFacts(
                    id=volume.entry.id,
                    volume=volume.entry.name,
                    export=f"{volume.entry.name}@{rfc3339(common.stamp)}",
                    instant=instant_facts(instant),
                )
                for volume, instant in zip(now.volumes, common.instants, strict=True)
            )
            return GroupInstantFacts(found.name, common.stamp, volumes)

    def bookmark(
        self, group: str, name: str, at: When, *, force: bool, held: bool = False, expires_stamp: int | None = None
    ) -> GroupBookmarkFacts:
        check_name(name, "bookmark")
        with self.changing, self._whole(group) as now:
            _refuse_unfinished(now.group)
            common = now.resolve(at, time.time_ns())
            taken = [volume.entry.name for volume in now.volumes if _mark(volume, name) is not None]
            if taken and not force:
                raise Invalid(f"there is a bookmark {name!r} already, on {', '.join(taken)}")
            pending = Pending(BOOKMARK, common.stamp, common.stamp, _lsns(now, common), name, held, expires_stamp)
            with self._noted(now, pending) as undo:
                for volume in now.volumes:
                    _name(volume, pending, undo)
        return GroupBookmarkFacts(name, common.stamp, held, expires_stamp)

    def remove_bookmark(self, group: str, name: str) -> GroupBookmarkFacts:
        with self.changing, self._whole(group) as now:
            having = [volume for volume in now.volumes if _mark(volume, name) is not None]
            if not having:
                raise NotFound(f"no volume of {now.group.name} has a bookmark {name[:200]!r}")
            first, *_ = [volume.remove_bookmark(name) for volume in having]
        return GroupBookmarkFacts(name, first.common_stamp or first.stamp, first.held, first.expires_stamp)

    def rollback(self, group: str, to: When | None, *, force: bool) -> GroupRollbackFacts:
        with self.changing, self._whole(group) as now, ExitStack() as barred:
            wanted = to if to is not None else _before_newest(now.group)
            for volume in now.volumes:
                self._attaching.refuse(volume.entry.id, "rolled back")
            common = now.resolve(wanted, time.time_ns())
            ended = [barred.enter_context(self._opener.quiet(volume.entry, force=force)) for volume in now.volumes]
            # Nobody writes any more: the newest stamp is the instant before the rollback. One that was begun and not completed began earlier.
            begun = _newest(now) if now.group.pending is None else now.group.pending.begun
            with self._noted(now, Pending(ROLLBACK, common.stamp, begun, _lsns(now, common))) as undo:
                done = [
                    _roll_back(volume, instant, count, undo)
                    for volume, instant, count in zip(now.volumes, common.instants, ended, strict=True)
                ]
            for volume in now.volumes:
                # A size is an instant's, too. It is a note for listings: the next opening sets it right.
                with suppress(CdpError):
                    self._opener.renamed(self._catalog.note_size(volume.entry, volume.native.size))
        return GroupRollbackFacts(now.group.name, common.stamp, begun, tuple(done))

    def refuse(self, volume_id: str, done: str) -> None:
        """Busy if a volume belongs to a group; `done`: what was to be done to it."""
        for group in self.files.of_volume(volume_id):
            name = next((it.name for it in self._members(group) if it.id == volume_id), None) or volume_id
            raise Busy(
                f"{name} is not {done}: it belongs to the group {group.name} (cdp group remove {group.name} {name} takes it out)"
            )

    def complete(self, group: str) -> Group:
        """Opens all volumes for writing, completes a bookmark that was begun, and takes note of what the journals tell."""
        with self.changing, self._whole(group) as now:
            return now.group

    def learn(self, group: str, members: Sequence[Member]) -> None:
        """Takes note of what the journals of some volumes tell."""
        with self.changing:
            self.files.change(group, lambda it: learned(it, members))

    @contextmanager
    def _whole(self, group: str) -> Iterator[Standing]:
        """All volumes, open for writing, with nothing left to learn from their journals. The caller holds `changing`."""
        found = self.files.find(group)
        with self._standing(found, self._opener.writing) as now:
            now.group = self.files.change(found.id, now.learn)
            pending = now.group.pending
            if pending is not None and pending.kind == BOOKMARK:
                self._complete(now, pending)
                now.group = self.files.change(found.id, lambda it: replace(it, pending=None))
            yield now

    def _complete(self, now: Standing, pending: Pending) -> None:
        """What a kill left of a bookmark: it gets to the volumes that lack it, or goes from all if an instant of it is gone."""
        undo: Undos = []
        lacking = [
            it for it in now.volumes if (mark := _mark(it, pending.name)) is None or mark.common_stamp != pending.stamp
        ]
        try:
            for volume in lacking:
                if volume.entry.id in pending.lsns:
                    _name(volume, pending, undo)
        except (NotFound, Invalid):
            for volume in now.volumes:
                if (mark := _mark(volume, pending.name)) is not None and mark.common_stamp == pending.stamp:
                    volume.remove_bookmark(pending.name)

    @contextmanager
    def _standing(self, group: Group, opening: Opening | None = None) -> Iterator[Standing]:
        """The group's volumes, open for a look unless `opening` says otherwise."""
        how = opening or self._opener.looking
        with ExitStack() as held:
            volumes = [held.enter_context(how(self._member(group, it))) for it in group.volumes]
            yield Standing(group, volumes, self.files.notes(group.id))

    def _member(self, group: Group, volume_id: str) -> Entry:
        try:
            return self._catalog.get(volume_id)
        except CdpError as error:
            raise type(error)(
                f"the group {group.name} lacks a volume: {error} (cdp group remove {group.name} {volume_id} takes it out)"
            ) from error

    @contextmanager
    def _noted(self, now: Standing, pending: Pending) -> Iterator[Undos]:
        """The group's file says what is done to all volumes, for a `with` block that lists how each step is undone.

        A failure is undone; where that fails too, the note stays.
        """
        # What is to be kept or gone back to must not be given up meanwhile.
        pins = [volume.native.view(pending.lsns[volume.entry.id]) for volume in now.volumes]
        undo: Undos = []
        before = now.group.pending
        self.files.change(now.group.id, lambda it: replace(it, pending=pending))
        try:
            yield undo
        except CdpError as error:
            try:
                for step in reversed(undo):
                    step()
            except CdpError as second:
                left = unfinished(replace(now.group, pending=pending))
                raise type(error)(f"{error}; going back failed, too: {second}; {left}") from error
            self.files.change(now.group.id, lambda it: _ended(now, it, pending, before))
            raise
        finally:
            pins.clear()
        done = pending.begun if pending.kind == ROLLBACK else now.group.undo
        self.files.change(now.group.id, lambda it: replace(_ended(now, it, pending, None), undo=done))

    def _learn(self, group: Group) -> None:
        """Takes note of what the journals of new volumes tell. What cannot be opened now is asked at the next look."""
        with suppress(CdpError), self.changing, self._standing(group) as now:
            self.files.change(group.id, now.learn)

    def _entries(self, volumes: Sequence[str]) -> Sequence[Entry]:
        entries = [self._catalog.find(volume) for volume in volumes]
        if len({entry.id for entry in entries}) < len(entries):
            raise Invalid("a volume is named twice")
        _check_count(len(entries))
        return entries

    def _members(self, group: Group) -> Sequence[GroupMemberFacts]:
        found = []
        for volume_id in group.volumes:
            name = None
            with suppress(CdpError):
                name = self._catalog.get(volume_id).name
            found.append(GroupMemberFacts(volume_id, name))
        return found

    def _facts(self, group: Group | DamagedGroup) -> GroupFacts:
        if isinstance(group, DamagedGroup):
            return GroupFacts(group.id, "damaged", problems=(group.problem,))
        state = "ok" if group.pending is None else "unfinished"
        return GroupFacts(group.id, state, group.name, group.made, tuple(self._members(group)))


def _ended(now: Standing, group: Group, pending: Pending, left: Pending | None) -> Group:
    """The group after what was pending was done or undone."""
    if pending.kind == ROLLBACK and (until := _newest(now)) > pending.begun:
        group = with_gaps(group, (*group.gaps, Gap(pending.begun + 1, until, ROLLBACK)))
    return replace(group, pending=left)


def _name(volume: OpenVolume, pending: Pending, undo: Undos) -> None:
    """Sets the pending bookmark on one volume."""
    before = _mark(volume, pending.name)
    volume.add_bookmark(
        pending.name,
        AtLsn(pending.lsns[volume.entry.id]),
        force=True,
        held=pending.held,
        expires_stamp=pending.expires,
        common_stamp=pending.stamp,
    )
    undo.append(partial(_name_back, volume, pending.name, before))


def _name_back(volume: OpenVolume, name: str, before: BookmarkFacts | None) -> None:
    if before is None:
        volume.remove_bookmark(name)
    else:
        volume.add_bookmark(
            name,
            AtLsn(before.lsn),
            force=True,
            held=before.held,
            expires_stamp=before.expires_stamp,
            common_stamp=before.common_stamp,
        )


def _roll_back(volume: OpenVolume, to: Moment, ended: int, undo: Undos) -> RollbackFacts:
    before = volume.native.latest()
    facts = roll_back(volume, to, ended)
    undo.append(lambda: volume.native.rollback(before.lsn))
    return facts


def _mark(volume: OpenVolume, name: str) -> BookmarkFacts | None:
    return next((mark for mark in volume.bookmarks() if mark.name == name), None)


def _lsns(now: Standing, common: Common) -> dict[str, int]:
    return {volume.entry.id: instant.lsn for volume, instant in zip(now.volumes, common.instants, strict=True)}


def _newest(now: Standing) -> int:
    return max(volume.native.latest().stamp for volume in now.volumes)


def _before_newest(group: Group) -> When:
    if group.undo is None:
        raise NotFound(f"{group.name}: there was no rollback of the group")
    return At(group.undo)


def _check_count(volumes: int) -> None:
    if not 0 < volumes <= VOLUMES_MAX:
        raise Invalid(f"a group has 1 to {VOLUMES_MAX} volumes")


def unfinished(group: Group) -> str | None:
    """What was begun with all volumes and not completed, and what completes it; None if nothing was."""
    pending = group.pending
    if pending is None:
        return None
    if pending.kind == ROLLBACK:
        return f"a rollback to {rfc3339(pending.stamp)} was begun and not completed: cdp rollback --group {group.name} --to {rfc3339(pending.stamp)} completes it"
    return f"the bookmark {pending.name} at {rfc3339(pending.stamp)} is not set on all volumes yet: the next change of the group completes it"


def _refuse_unfinished(group: Group) -> None:
    if group.pending is not None:
        raise Busy(f"{group.name}: {unfinished(group)}")
