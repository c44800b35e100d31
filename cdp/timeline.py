"""The timeline of a volume: what happened between two instants, gathered and merged.

Invariants:
- `merge` is pure: the same parts give the same rows, in the order of their stamps; of the same stamp, in the order of their LSNs.
- However long the history, at most FLUSH_POINTS_MAX flush points are looked up; the older ones are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdp import marks
from cdp.errors import NotFound
from cdp.facts import BookmarkFacts, EventFacts, FlushFacts, LogFacts, MinuteFacts, VolumeFacts
from cdp.volume import OpenVolume, instant_facts
from cdp.when import SECOND, Ago, At, When

if TYPE_CHECKING:
    from cdp.when import Moment

MINUTE = 60 * SECOND
FLUSH_POINTS_MAX = 4096
"""Flush points whose time is looked up, one native call each: a few hundred milliseconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing on the timeline. `kind`: activity (a whole minute), bookmark or event."""

    stamp: int
    lsn: int | None
    kind: str
    item: MinuteFacts | BookmarkFacts | EventFacts


def gather(volume: OpenVolume, facts: VolumeFacts, since: When, until: When) -> LogFacts:
    """What the volume's journal says about the time from `since` to `until`; times outside its history mean its ends."""
    first, last = _bound(volume, since), _bound(volume, until)
    native = volume.native
    lsns = native.flush_points(first.lsn, last.lsn)
    listed = lsns[-FLUSH_POINTS_MAX:]
    flushes = tuple(FlushFacts(lsn, native.instant_of_lsn(lsn).stamp) for lsn in listed)
    controls = [control for control in native.controls() if first.lsn <= control[0] <= last.lsn]
    return LogFacts(
        volume=facts,
        since=instant_facts(first),
        until=instant_facts(last),
        minutes=minutes(native.activity(first.lsn, last.lsn), flushes),
        flush_points=flushes,
        flush_points_left_out=len(lsns) - len(listed),
        bookmarks=tuple(mark for mark in volume.bookmarks() if first.lsn <= mark.lsn <= last.lsn),
        events=tuple(marks.events(controls)),
    )


def minutes(
    activity: Iterable[tuple[int, int, int, int, int]], flushes: Iterable[FlushFacts]
) -> tuple[MinuteFacts, ...]:
    """The minutes in which something was written or flushed, in order. `activity` as `_native.Volume.activity` gives it."""
    flushed = Counter(flush.stamp // MINUTE for flush in flushes)
    written = {minute: (data, zeros, raw, stored) for minute, data, zeros, raw, stored in activity}
    silent = (0, 0, 0, 0)
    return tuple(
        MinuteFacts(minute * MINUTE, *written.get(minute, silent), flushed[minute])
        for minute in sorted(written.keys() | flushed.keys())
    )


def merge(log: LogFacts) -> list[Row]:
    """Minutes, bookmarks and events on one timeline. A minute stands before what happened in it."""
    rows = [Row(minute.stamp, None, "activity", minute) for minute in log.minutes]
    rows += [Row(mark.stamp, mark.lsn, "bookmark", mark) for mark in log.bookmarks]
    rows += [Row(event.stamp, event.lsn, "event", event) for event in log.events]
    return sorted(rows, key=lambda row: (row.stamp, -1 if row.lsn is None else row.lsn))


def sparkline(log: LogFacts, columns: int) -> tuple[str, int]:
    """The bytes written over time as a line of at most `columns` bars, and the minutes that one bar stands for."""
    if not log.minutes or columns < 1:
        return "", 1
    first = log.minutes[0].stamp // MINUTE
    span = log.minutes[-1].stamp // MINUTE - first + 1
    step = -(-span // columns)
    sums = [0] * -(-span // step)
    for minute in log.minutes:
        sums[(minute.stamp // MINUTE - first) // step] += minute.raw_bytes
    most = max(sums)
    bars = "▁▂▃▄▅▆▇█"
    # A bar for anything at all: what was written must not look like silence.
    return "".join(" " if not value else bars[(value * 8 - 1) // most] for value in sums), step


def _bound(volume: OpenVolume, wanted: When) -> Moment:
    try:
        return volume.resolve(wanted)
    except NotFound:
        if not isinstance(wanted, At | Ago):
            raise
        latest = volume.native.latest()
        return latest if isinstance(wanted, At) and wanted.stamp > latest.stamp else volume.native.oldest()
