"""Which LSN a WHEN names, and what can be reached (docs/format.md, "Instants", "The state at an LSN").

Instants are the marks (points, then the horizon) and every record above the horizon. Clock epochs ascend with LSNs, and
inside one stamps never decrease, so what a time names is the instant with the largest LSN whose stamp is not above it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from cdp.errors import Invalid, NotFound
from cdp.salvage.history import History
from cdp.salvage.items import Mark
from cdp.salvage.when import Bookmark, Edge, Number, When, show_stamp


@dataclass(frozen=True, slots=True)
class Instant:
    """A position in the history. `other_lsn`: the second candidate of an ambiguous time, else None.

    `kept_point`: it stands for a time below the horizon whose own instant may be gone.
    """

    lsn: int
    stamp: int
    other_lsn: int | None = None
    kept_point: bool = False


def latest(history: History) -> Instant:
    """The last record; the horizon where there is none behind it."""
    if not history.stretches:
        return Instant(history.horizon.lsn, history.horizon.stamp)
    return Instant(history.stretches[-1].last_lsn, history.stretches[-1].last_stamp)


def oldest(history: History) -> Instant:
    """The oldest point, or the horizon."""
    return Instant(history.marks[0].lsn, history.marks[0].stamp)


def reachable(history: History) -> str:
    """The range that can be reached, for people."""
    newest, horizon = latest(history), history.horizon
    text = (
        f"reachable: LSN {horizon.lsn} ({show_stamp(horizon.stamp)}) to LSN {newest.lsn} ({show_stamp(newest.stamp)})"
    )
    if (below := len(history.marks) - 1) == 0:
        return text
    first = oldest(history)
    return f"{text}, and {below} points below, the oldest LSN {first.lsn} ({show_stamp(first.stamp)})"


def resolve(history: History, when: When, now: int) -> Instant:
    """The instant that `when` names. Raises NotFound for an unknown bookmark, Invalid for what cannot be reached."""
    if isinstance(when, Edge):
        return latest(history) if when.newest else oldest(history)
    if isinstance(when, Number):
        return _at_lsn(history, when.lsn)
    if isinstance(when, Bookmark):
        marks = history.bookmarks()
        if when.name not in marks:
            raise NotFound(f"no bookmark {when.name}; there are: {', '.join(sorted(marks)) or 'none'}")
        return _at_lsn(history, marks[when.name])
    if when.stamp > max(now, latest(history).stamp):
        raise Invalid(f"{show_stamp(when.stamp)} is in the future; {reachable(history)}")
    return _at_time(history, when.stamp)


def _at_lsn(history: History, lsn: int) -> Instant:
    for mark in history.marks:
        if mark.lsn == lsn:
            return Instant(lsn, mark.stamp)
    if lsn > latest(history).lsn:
        raise Invalid(f"there is no LSN {lsn} yet; {reachable(history)}")
    if lsn < history.horizon.lsn:
        raise Invalid(f"LSN {lsn} is below the horizon and no point: it is not kept; {reachable(history)}")
    at = bisect_right(history.stretches, lsn, key=lambda stretch: stretch.first_lsn) - 1
    if at < 0 or lsn > history.stretches[at].last_lsn:
        raise Invalid(f"no record has LSN {lsn}; {reachable(history)}")
    return Instant(lsn, [mark.stamp for mark in history.stretches[at].marks() if mark.lsn <= lsn][-1])


def _at_time(history: History, stamp: int) -> Instant:
    found = [one for number in history.clocks if (one := _newest_of(history, number, stamp)) is not None]
    if not found:
        raise Invalid(f"{show_stamp(stamp)} is before all that is kept; {reachable(history)}")
    newest = max(found, key=lambda mark: mark.lsn)
    return Instant(newest.lsn, newest.stamp, _other(history, newest, stamp), newest.lsn < history.horizon.lsn)


def _other(history: History, newest: Mark, stamp: int) -> int | None:
    """The candidate of the newest earlier clock epoch that also holds the time, where a later one began before its end."""
    began = history.clocks[newest.clock_epoch].began
    for number in sorted(history.clocks, reverse=True):
        ended = history.clocks[number].ended
        if number < newest.clock_epoch and stamp <= ended and began <= ended:
            other = _newest_of(history, number, stamp)
            if other is not None:
                return other.lsn
    return None


def _newest_of(history: History, clock_epoch: int, stamp: int) -> Mark | None:
    """The instant of a clock epoch with the largest LSN whose stamp is not above `stamp`."""
    stretches = history.clocks[clock_epoch].stretches
    at = bisect_right(stretches, stamp, key=lambda stretch: stretch.first_stamp) - 1
    if at >= 0:
        return [mark for mark in stretches[at].marks() if mark.stamp <= stamp][-1]
    marks = [mark for mark in history.marks if mark.clock_epoch == clock_epoch and mark.stamp <= stamp]
    return marks[-1] if marks else None
