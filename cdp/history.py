"""What retention asks of the engine, and what it tells it: the one place that knows `_native.Volume` by these calls.

Invariants:
- Only what no crash can take back is looked up: the horizon may lie on no other record.
- Nothing here decides: facts come out (cdp/retention/state.py), a plan goes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cdp.description import SECTOR
from cdp.errors import NotFound
from cdp.facts import BookmarkFacts
from cdp.retention.state import Mark, Pin, Point, Space

if TYPE_CHECKING:
    from cdp import _native
    from cdp.when import Moment


EVERYTHING = 1 << 62
"""Bytes to free: more than there are, so whatever is worth it."""


class NativeHistory:
    """A volume's settled history (`cdp.retention.state.History`), as it was when this was made."""

    def __init__(self, native: _native.Volume) -> None:
        self._native = native
        reach = native.reach()
        newest = native.latest()
        self.latest = Point(newest.lsn, newest.stamp)
        self._top = min(int(reach["settled"]), newest.lsn)
        self._points = [(int(lsn), int(stamp)) for lsn, stamp, _ in reach["points"]]
        self.horizon = Point(int(reach["horizon"]), int(reach["horizon_stamp"]))
        self.flushed: set[int] = set()
        """What `flushes` answered so far."""

    def points(self, known: Mapping[int, bool]) -> tuple[Point, ...]:
        """The points below the horizon. `known`: whether they are flush points; one that nobody knows of any more counts as one."""
        return tuple(Point(lsn, stamp, known.get(lsn, True)) for lsn, stamp in self._points)

    def last(self, stamp: int, below: int | None = None) -> Point | None:
        below = self._top + 1 if below is None else min(below, self._top + 1)
        if stamp < 0:
            return None
        try:
            found = self._native.instant_at(min(stamp, self.latest.stamp))
        except NotFound:
            return None
        if found.lsn < below:
            return Point(found.lsn, found.stamp)
        # In an older clock epoch the same time may have come before.
        if found.other is not None and found.other < below:
            return self.point(found.other)
        newest = self._newest_below(below)
        return newest if newest is not None and newest.stamp <= stamp else None

    def point(self, lsn: int) -> Point | None:
        if lsn > self._top:
            return None
        found = self._instant(lsn)
        return None if found is None else Point(found.lsn, found.stamp)

    def minutes(self, since: int, until: int) -> Sequence[tuple[int, int]]:
        rows = self._native.activity(max(0, since - 1), min(until - 1, self._top))
        return [(minute, stored + SECTOR * zeros) for minute, _, zeros, _, stored in rows]

    def flushes(self, since: int, until: int) -> Sequence[int]:
        lsns = self._native.flush_points(since, min(until - 1, self._top))
        self.flushed.update(lsns)
        return lsns

    def window_bytes(self) -> int:
        """What the records above the horizon stored."""
        return sum(stored for _, stored in self.minutes(self.horizon.lsn + 1, self._top + 1))

    def _newest_below(self, lsn: int) -> Point | None:
        found = self._instant(lsn - 1)
        if found is None and lsn > self.horizon.lsn:
            # A number that nobody used: what time was it there? The newest record of the time before the next one's.
            found = self._before(lsn)
        return None if found is None else Point(found.lsn, found.stamp)

    def _before(self, lsn: int) -> Moment | None:
        after = self._instant(lsn)
        if after is None:
            return None
        try:
            before = self._native.instant_at(after.stamp - 1)
        except NotFound:
            return None
        return before if before.lsn < lsn else None

    def _instant(self, lsn: int) -> Moment | None:
        try:
            return self._native.instant_of_lsn(lsn)
        except NotFound:
            return None


def marks_of(bookmarks: Iterable[BookmarkFacts]) -> tuple[Mark, ...]:
    """Bookmarks as a plan sees them."""
    return tuple(Mark(mark.name, mark.lsn, mark.stamp, mark.held, mark.expires_stamp) for mark in bookmarks)


def pins_of(native: _native.Volume) -> tuple[Pin, ...]:
    """Who reads an instant now. Restores read through views."""
    return tuple(Pin(lsn, "view") for lsn, _ in native.pins())


def space_of(told: Mapping[str, Any], window: int, *, measured: bool) -> Space:
    """The figures as a plan sees them."""
    used, soft, hard = int(told["used"]), told.get("soft"), told.get("hard")
    disk_full = bool(told.get("disk_full"))
    if disk_full:
        # What the disk refused to go beyond is the bound then, and it leaves no room for a slow-down.
        hard = used if hard is None else int(hard)
        soft = hard * 7 // 8
    near = hard is not None and soft is not None and used >= hard - (hard - soft) // 16
    tight = bool(told.get("stalled")) or disk_full or near
    return Space(used, int(told.get("dead") or 0), window, soft, hard, tight, disk_full, measured)


def condition(told: Mapping[str, Any], full: str) -> str:
    """What writers feel: ok, slowing, stalled (they wait), or full (they fail)."""
    space = space_of(told, 0, measured=True)
    if told.get("stalled") or (space.hard is not None and space.used >= space.hard):
        return "full" if full == "fail" else "stalled"
    return "slowing" if space.soft is not None and space.used > space.soft else "ok"


def compact(native: _native.Volume) -> tuple[int, int]:
    """One cycle of compaction, of all that is worth it: bytes freed, bytes written."""
    done = native.compact(EVERYTHING)
    return done["freed"], done["written"]
