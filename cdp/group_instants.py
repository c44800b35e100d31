"""One instant of all volumes of a group: a stamp, at which each of them is looked up (docs/decisions/0012-groups.md).

Invariants:
- A WHEN becomes one stamp, once; every member is then looked up, and fenced, at that stamp.
- Only what is exact counts: times from which some member keeps points alone are refused, but for bookmarks of the whole group.
- A time in a gap (cdp/group_gaps.py) is refused, whoever asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdp import marks
from cdp.errors import CdpError, Invalid, NotFound
from cdp.facts import BookmarkFacts
from cdp.group_facts import GroupBookmarkFacts, GroupGapFacts
from cdp.group_files import Gap, Group, with_gaps
from cdp.group_gaps import (
    CLOCK,
    CRASH,
    ROLLBACK,
    Member,
    covering,
    learned,
    open_gaps,
    set_back,
    whole_from,
    whole_until,
)
from cdp.when import Ago, At, AtBookmark, AtLsn, Latest, Moment, Oldest, When, rfc3339

if TYPE_CHECKING:
    from cdp.volume import OpenVolume

FOREVER = (1 << 64) - 1
"""Later than every stamp: where a gap ends that has not ended."""

_TELLING = (b"recovery", b"clock-step")
"""Events that make gaps."""

_WHY = {
    CRASH: "a crash may have taken writes that were answered",
    CLOCK: "the clock was set back, so that it names two states",
    ROLLBACK: "a rollback of the group was under way",
}


@dataclass(frozen=True, slots=True)
class Common:
    """A common instant: the stamp, and each volume's own instant, in the order of the group's volumes."""

    stamp: int
    instants: tuple[Moment, ...]


class Standing:
    """A group and its open volumes, as they are now. `safe`: the group's notes."""

    def __init__(self, group: Group, volumes: Sequence[OpenVolume], safe: Mapping[str, int]) -> None:
        self.volumes = tuple(volumes)
        members = self._members = [member(group, volume, safe) for volume in volumes]
        self.group = self.learn(group)
        unended = [Gap(since, FOREVER, kind, volume) for since, kind, volume in open_gaps(group.pending, members)]
        self._gaps = (*self.group.gaps, *unended)
        self._names = {volume.entry.id: volume.entry.name for volume in volumes}
        # The volume that remembers least: from when on, and which it is.
        self._from, self._least = max((_exact_from(volume), volume.entry.name) for volume in volumes)
        self._newest = max(self._from, *(member.latest for member in members))

    def learn(self, group: Group) -> Group:
        """The group with what its volumes' journals tell, and the clock."""
        known = learned(group, self._members)
        now = time.time_ns()
        gap = set_back(self._members, now)
        return known if gap is None or covering(known.gaps, now) else with_gaps(known, (*known.gaps, gap))

    @property
    def oldest(self) -> int | None:
        """The first common instant, as a stamp; None if there is none."""
        found = whole_from(self._gaps, self._from)
        return found if found <= self._newest else None

    @property
    def latest(self) -> int | None:
        """The last one. After a crash that nobody has recovered from, it lies before the gap."""
        found = whole_until(self._gaps, self._newest)
        return found if found >= self._from else None

    def gaps(self) -> tuple[GroupGapFacts, ...]:
        """Those that a time which could be asked for can lie in."""
        shown = sorted((gap for gap in self._gaps if gap.until > self._from), key=lambda gap: (gap.since, gap.until))
        return tuple(map(self._gap_facts, shown))

    def bookmarks(self) -> tuple[GroupBookmarkFacts, ...]:
        """Names that all volumes have for one instant, in the order of their instants."""
        found = [_common(marks_of) for marks_of in self._named().values()]
        return tuple(sorted((mark for mark in found if mark is not None), key=lambda mark: (mark.stamp, mark.name)))

    def resolve(self, wanted: When, now: int) -> Common:
        """The common instant that `wanted` names at the time `now`. NotFound with the reason and what can be had instead; Invalid for an LSN."""
        match wanted:
            case Latest():
                return self._look_up(self._at(self._newest, "latest"))
            case Oldest():
                return self._look_up(self._at(whole_from(self._gaps, self._from), "oldest"))
            case AtLsn():
                raise Invalid(f"{wanted} is a record of one volume: name an instant of a group by a time or a bookmark")
            case AtBookmark(name):
                return self._bookmarked(name)
            case Ago(duration):
                return self._time(now - duration, now, str(wanted))
            case At(stamp):
                return self._time(stamp, now, rfc3339(stamp))

    def _time(self, stamp: int, now: int, text: str) -> Common:
        if stamp > max(now, self._newest):
            raise NotFound(f"{self.group.name}: {text} lies in the future: it is {rfc3339(now)} now; {self._reach()}")
        for mark in self.bookmarks():
            # Its instants are kept, whatever else of that time was given up.
            if mark.stamp == stamp:
                return self._bookmarked(mark.name)
        return self._look_up(self._at(stamp, text))

    def _at(self, stamp: int, text: str) -> int:
        gap = covering(self._gaps, stamp)
        if gap is not None:
            where = "" if gap.volume is None else f" ({self._names.get(gap.volume, gap.volume)})"
            raise NotFound(
                f"{self.group.name} has no common instant at {text}: {_WHY.get(gap.kind, gap.kind)}{where}{self._beside(gap)}; {self._reach()}"
            )
        if stamp < self._from:
            raise NotFound(
                f"{self.group.name} has no common instant at {text}: {self._least} keeps every write from {rfc3339(self._from)} on only; {self._reach()}"
            )
        return stamp

    def _look_up(self, stamp: int) -> Common:
        instants = []
        for volume in self.volumes:
            try:
                instants.append(volume.native.instant_at(stamp))
            except NotFound as error:
                raise NotFound(f"{volume.entry.name}: {error}") from error
        return Common(stamp, tuple(instants))

    def _bookmarked(self, name: str) -> Common:
        have = self._named().get(name, {})
        mark = _common(have)
        if mark is None:
            known = ", ".join(one.name for one in self.bookmarks()[-8:])
            lacking = [volume.entry.name for volume in self.volumes if have.get(volume.entry.id) is None]
            why = (
                f" ({', '.join(lacking)} has none)"
                if have and lacking
                else " (its volumes have it at different instants)"
                if have
                else ""
            )
            raise NotFound(
                f"{self.group.name} has no bookmark {name!r} of all its volumes{why}{known and '; it has ' + known}"
            )
        lsns = [(volume, have[volume.entry.id]) for volume in self.volumes]
        return Common(mark.stamp, tuple(volume.native.instant_of_lsn(it.lsn) for volume, it in lsns if it is not None))

    def _named(self) -> dict[str, dict[str, BookmarkFacts | None]]:
        """By name and volume ID; a volume that has no such name has None."""
        found: dict[str, dict[str, BookmarkFacts | None]] = {}
        for volume in self.volumes:
            for mark in volume.bookmarks():
                found.setdefault(mark.name, {it.entry.id: None for it in self.volumes})[volume.entry.id] = mark
        return found

    def _beside(self, gap: Gap) -> str:
        before = whole_until(self._gaps, gap.since)
        after = whole_from(self._gaps, gap.since)
        near = [
            rfc3339(stamp) for stamp in (before, after) if self._from <= stamp <= self._newest and stamp != gap.since
        ]
        return f"; nearest: {' and '.join(near)}" if near else ""

    def _reach(self) -> str:
        if self.oldest is None or self.latest is None:
            return "it has none at all now"
        return f"its instants lie from {rfc3339(self.oldest)} to {rfc3339(self.latest)}"

    def _gap_facts(self, gap: Gap) -> GroupGapFacts:
        until = None if gap.until == FOREVER else gap.until
        volume = None if gap.volume is None else self._names.get(gap.volume, gap.volume)
        return GroupGapFacts(gap.since, until, gap.kind, volume)


def _common(have: Mapping[str, BookmarkFacts | None]) -> GroupBookmarkFacts | None:
    """The bookmark of the group, if all volumes have the name at one stamp."""
    found = list(have.values())
    stamps = {None if mark is None else mark.common_stamp for mark in found}
    first = found[0] if found else None
    if first is None or first.common_stamp is None or len(stamps) != 1:
        return None
    return GroupBookmarkFacts(first.name, first.common_stamp, first.held, first.expires_stamp)


def _exact_from(volume: OpenVolume) -> int:
    """From which stamp on every write can be reached. A clone's history before it was made is another volume's."""
    return max(int(volume.native.reach()["horizon_stamp"]), volume.entry.description.created_stamp)


def member(group: Group, volume: OpenVolume, safe: Mapping[str, int]) -> Member:
    """What an open volume's journal tells of gaps that the group has not seen; `safe`: the group's notes."""
    native = volume.native
    seen = group.seen.get(volume.entry.id, -1)
    # There may be many others, and this is asked often.
    fresh = [it for it in native.controls() if it[0] > seen and any(kind in it[2] for kind in _TELLING)]
    reach = native.reach()

    def stamp_of(lsn: int) -> int | None:
        if lsn <= int(reach["horizon"]):
            return int(reach["horizon_stamp"])
        try:
            return native.instant_of_lsn(lsn).stamp
        except CdpError:
            return None

    return Member(
        id=volume.entry.id,
        events=marks.events(fresh),
        stamp_of=stamp_of,
        latest=native.latest().stamp,
        dirty=native.read_only and not native.status()["clean"],
        safe=safe.get(volume.entry.id),
    )
