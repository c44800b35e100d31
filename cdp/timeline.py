"""The timeline of a volume: what happened between two instants, gathered and merged.

Invariants:
- `interval_for`, `merge` and `sparkline` are pure: the same parts give the same rows, in the order of their stamps; of the same stamp, in the order of their LSNs.
- However long the history: about ROWS_MAX intervals where nobody asks for another length, and lists of bounded length, whose older part is counted.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdp import marks
from cdp.errors import Invalid, NotFound
from cdp.facts import BookmarkFacts, EventFacts, FlushFacts, IntervalFacts, LogFacts, VolumeFacts
from cdp.volume import OpenVolume, instant_facts
from cdp.when import SECOND, Ago, At, When

if TYPE_CHECKING:
    from cdp.when import Moment

FLUSH_POINTS_MAX = 4096
"""Flush points that are listed: each costs a look into its segment."""
EVENTS_MAX = 4096
"""Events that are listed."""
ROWS_MAX = 40
"""Intervals in one answer, where we choose their length: a screen of them."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
INTERVAL_MAX = 36525 * _DAY
"""Seconds: a hundred years."""

_STEPS = (
    *(1, 10, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 2 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 7 * _DAY, 28 * _DAY),
)
_UNITS = {"s": 1, "m": _MINUTE, "h": _HOUR, "d": _DAY}
_INTERVAL = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing on the timeline. `kind`: activity (a whole interval), flush point, bookmark or event."""

    stamp: int
    lsn: int | None
    kind: str
    item: IntervalFacts | FlushFacts | BookmarkFacts | EventFacts


def parse_interval(text: str) -> int:
    """Seconds in `10s`, `5m`, `1h`, `7d`; Invalid otherwise."""
    found = _INTERVAL.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found is not None else 0
    if not 1 <= seconds <= INTERVAL_MAX:
        raise Invalid(f"{text[:100]!r} is no interval: give 10s, 5m, 1h, 7d, or what you like from 1s to 36525d")
    return seconds


def interval_text(seconds: int) -> str:
    """The interval as `parse_interval` reads it, in the largest unit that fits."""
    unit = next(unit for unit in "dhms" if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def interval_for(span: int) -> int:
    """Seconds: the shortest of our intervals of which ROWS_MAX cover `span` nanoseconds; beyond all of them, a multiple of the longest."""
    seconds = -(-span // SECOND)
    fitting = (step for step in _STEPS if step * ROWS_MAX >= seconds)
    return next(fitting, -(-seconds // (_STEPS[-1] * ROWS_MAX)) * _STEPS[-1])


def gather(
    volume: OpenVolume,
    facts: VolumeFacts,
    since: When,
    until: When,
    *,
    interval: int | None = None,
    list_flushes: bool = False,
) -> LogFacts:
    """What the volume's journal says about the records after `since` up to `until`; times outside its history mean its ends. `interval` in seconds, None: what suits."""
    span = _span(volume, since, until)
    native = volume.native
    seconds = interval or interval_for(max(0, span.until.stamp - span.since.stamp))
    length, rows = native.timeline(span.since.lsn, span.upto, seconds * SECOND)
    intervals = tuple(_interval(*row) for row in rows if span.holds(row[0], length))
    listed, left_out = _flushes(volume, span) if list_flushes else ((), _counted(intervals))
    controls = native.controls()
    events = marks.events([it for it in controls if span.since.lsn < it[0] <= span.upto and span.holds(it[1])])
    return LogFacts(
        volume=facts,
        since=instant_facts(span.since),
        until=instant_facts(span.until),
        interval_seconds=length // SECOND,
        intervals=intervals,
        flush_points=listed,
        flush_points_left_out=left_out,
        bookmarks=tuple(mark for mark in volume.bookmarks() if span.since.lsn <= mark.lsn <= span.until.lsn),
        events=tuple(events[-EVENTS_MAX:]),
        events_left_out=max(0, len(events) - EVENTS_MAX),
    )


def merge(log: LogFacts) -> list[Row]:
    """Intervals, flush points, bookmarks and events on one timeline. An interval stands before what happened in it."""
    rows = [Row(interval.stamp, None, "activity", interval) for interval in log.intervals]
    rows += [Row(flush.stamp, flush.lsn, "flush point", flush) for flush in log.flush_points]
    rows += [Row(mark.stamp, mark.lsn, "bookmark", mark) for mark in log.bookmarks]
    rows += [Row(event.stamp, event.lsn, "event", event) for event in log.events]
    return sorted(rows, key=lambda row: (row.stamp, -1 if row.lsn is None else row.lsn))


def sparkline(log: LogFacts, columns: int) -> tuple[str, int]:
    """The bytes written over time as a line of at most `columns` bars, and the seconds that one bar stands for."""
    if not log.intervals or columns < 1:
        return "", log.interval_seconds
    length = log.interval_seconds * SECOND
    first = log.intervals[0].stamp // length
    span = log.intervals[-1].stamp // length - first + 1
    step = -(-span // columns)
    sums = [0] * -(-span // step)
    for interval in log.intervals:
        sums[(interval.stamp // length - first) // step] += interval.raw_bytes
    most = max(sums)
    bars = "▁▂▃▄▅▆▇█"
    # A bar for anything at all: what was written must not look like silence.
    return "".join(" " if not value else bars[(value * 8 - 1) // most] for value in sums), step * log.interval_seconds


def _interval(
    stamp: int, data: int, zeros: int, raw: int, stored: int, distinct: int | None, flushes: int, last_flush: int | None
) -> IntervalFacts:
    overwritten = None if distinct is None else raw - distinct
    return IntervalFacts(stamp, data, zeros, raw, stored, overwritten, flushes, last_flush)


def _flushes(volume: OpenVolume, span: _Span) -> tuple[tuple[FlushFacts, ...], int]:
    lsns = volume.native.flush_points(span.since.lsn + 1, span.upto)
    stamps = volume.native.stamps(lsns[-FLUSH_POINTS_MAX:])
    listed = tuple(FlushFacts(lsn, stamp) for lsn, stamp in stamps if span.holds(stamp))
    return listed, len(lsns) - len(stamps)


def _counted(intervals: tuple[IntervalFacts, ...]) -> int:
    return sum(interval.flush_points for interval in intervals)


@dataclass(frozen=True, slots=True)
class _Span:
    """What is asked for: the records after `since` up to the LSN `upto`; of those, where it is said, what `holds`."""

    since: Moment
    until: Moment
    upto: int
    begin: int | None = None
    end: int | None = None

    def holds(self, stamp: int, length: int = 0) -> bool:
        """Whether something of the time from `stamp` on belongs to it."""
        return (self.begin is None or stamp + length > self.begin) and (self.end is None or stamp <= self.end)


def _span(volume: OpenVolume, since: When, until: When) -> _Span:
    first, last = _bound(volume, since), _bound(volume, until)
    reach = volume.native.reach()
    horizon: int = reach["horizon"]
    # Below the horizon a time is the kept point before it, but what happened up to it lies behind that point: a span of time there is cut by stamps.
    upto, begin, end = last.lsn, None, None
    now = time.time_ns()
    if first.lsn < horizon:
        begin = _stamp(since, now)
    if last.lsn < horizon and (end := _stamp(until, now)) is not None:
        upto = next((lsn for lsn, _, _ in reach["points"] if lsn > last.lsn), horizon)
    return _Span(first, last, upto, begin, end)


def _stamp(wanted: When, now: int) -> int | None:
    match wanted:
        case At(stamp):
            return stamp
        case Ago(duration):
            return now - duration
        case _:
            return None


def _bound(volume: OpenVolume, wanted: When) -> Moment:
    try:
        return volume.resolve(wanted)
    except NotFound:
        if not isinstance(wanted, At | Ago):
            raise
        latest = volume.native.latest()
        return latest if isinstance(wanted, At) and wanted.stamp > latest.stamp else volume.native.oldest()
