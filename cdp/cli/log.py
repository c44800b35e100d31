"""`cdp log`: the timeline of a volume.

Invariants:
- On a terminal no line is longer than it is wide: columns are left out, and long sentences are folded. In a pipe all columns are there, and a thing is one line.
- Times are printed so that they can be pasted as a WHEN.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import counted, human_bytes, human_time, print_json, warn_if_inexact
from cdp.facts import BookmarkFacts, EventFacts, FlushFacts, IntervalFacts, LogFacts
from cdp.when import parse

HEADINGS = ("TIME", "WRITES", "ZEROINGS", "WRITTEN", "STORED", "OVERWRITES", "FLUSHES", "LAST FLUSH")
_LEAVE_OUT = ("ZEROINGS", "LAST FLUSH", "FLUSHES", "OVERWRITES", "STORED")
"""What a narrow terminal does without, in this order."""

_STAMP_MIN = 1 << 58
"""What is larger is a stamp, from 1979 on: no size, length or LSN of a volume comes near."""
_BYTES = ("used", "soft", "hard", "size", "size_before", "length", "budget")


def log(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    since: Annotated[str, typer.Option(metavar="WHEN", help="Where to begin.")] = "oldest",
    until: Annotated[str, typer.Option(metavar="WHEN", help="Where to end.")] = "latest",
    interval: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH", help="Of a row: 10s, 5m, 1h, 7d. Else one that makes about 40 rows.", show_default=False
        ),
    ] = None,
    flush_points: Annotated[bool, typer.Option("--flush-points", help="List each flush point.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to a volume: what was written, by intervals; flush points, bookmarks and events, in one timeline (UTC)."""
    from cdp.timeline import parse_interval  # noqa: PLC0415

    first, last = parse(since), parse(until)
    length = parse_interval(interval) if interval is not None else None
    with opened(context, store) as verbs:
        facts = verbs.log(volume, first, last, interval=length, list_flushes=flush_points)
    for end in (facts.since, facts.until):
        warn_if_inexact(end)
    if as_json:
        print_json(facts)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(facts, width):
        print(line)


def lines(facts: LogFacts, width: int | None) -> Iterator[str]:
    """The timeline as text, for a terminal of that width or for a pipe."""
    from cdp.timeline import interval_text, merge, sparkline  # noqa: PLC0415

    yield facts.volume.name or facts.volume.id
    for word, end in (("from", facts.since), ("to", facts.until)):
        yield f"{word:<4}  {human_time(end.stamp)}  lsn:{end.lsn}"
    if facts.intervals:
        bars, step = sparkline(facts, (width or 100) - len("written    28d a bar "))
        yield f"written  {bars}  {interval_text(step)} a bar"
    table = _Table([_cells(interval) for interval in facts.intervals], width)
    if facts.intervals:
        yield table.line(HEADINGS)
    for row in merge(facts):
        if isinstance(row.item, IntervalFacts):
            yield table.line(_cells(row.item))
        else:
            place = f"{human_time(row.stamp)}  lsn:{row.lsn}  "
            yield from _folded(place + describe(row.item), width)
    yield from _folded(_in_all(facts), width)


def describe(item: FlushFacts | BookmarkFacts | EventFacts) -> str:
    """A thing on the timeline in words."""
    match item:
        case FlushFacts():
            return "flush point"
        case BookmarkFacts():
            return f"bookmark  {item.name}"
        case EventFacts():
            return "  ".join((item.event, *(_detail(item.event, key, value) for key, value in item.details.items())))


def _detail(event: str, key: str, value: Any) -> str:
    name = key.removesuffix("_stamp")
    if isinstance(value, str):
        return (
            f"{name}={value}"
            if re.fullmatch(r"[\w./:@+-]+", value)
            else f"{name}={json.dumps(value, ensure_ascii=False)}"
        )
    if not isinstance(value, int) or isinstance(value, bool):
        return f"{name}={json.dumps(value, ensure_ascii=False)}"
    if key == "lsn" or key.endswith("_lsn") or (event, key) == ("rollback", "to"):
        return f"{name}=lsn:{value}"
    if value >= _STAMP_MIN:
        return f"{name}={human_time(value)}"
    return f"{name}={human_bytes(value) if key in _BYTES else value}"


def _cells(interval: IntervalFacts) -> tuple[str, ...]:
    return (
        human_time(interval.stamp).replace(".000000000Z", "Z"),
        str(interval.data_records),
        str(interval.zero_records),
        human_bytes(interval.raw_bytes),
        _share(interval.stored_bytes, interval.raw_bytes),
        _share(interval.overwritten_bytes, interval.raw_bytes),
        str(interval.flush_points),
        "-" if interval.last_flush_lsn is None else f"lsn:{interval.last_flush_lsn}",
    )


def _share(part: int | None, whole: int) -> str:
    return "-" if part is None or not whole else f"{100 * part / whole:.0f}%"


class _Table:
    """Rows of cells, in columns that fit."""

    def __init__(self, rows: Sequence[Sequence[str]], width: int | None) -> None:
        widths = [max(len(cell) for cell in column) for column in zip(HEADINGS, *rows, strict=True)]
        self._widths = dict(zip(HEADINGS, widths, strict=True))
        for heading in _LEAVE_OUT:
            if width is not None and sum(self._widths.values()) + 2 * (len(self._widths) - 1) > width:
                del self._widths[heading]

    def line(self, cells: Sequence[str]) -> str:
        named = dict(zip(HEADINGS, cells, strict=True))
        return "  ".join(
            named[name].ljust(width) if name == "TIME" else named[name].rjust(width)
            for name, width in self._widths.items()
        )


def _folded(sentence: str, width: int | None) -> list[str]:
    if width is None:
        return [sentence]
    return textwrap.wrap(sentence, max(width, 20), subsequent_indent="    ", break_on_hyphens=False)


def _in_all(facts: LogFacts) -> str:
    intervals = facts.intervals
    writes, zeros = sum(it.data_records for it in intervals), sum(it.zero_records for it in intervals)
    raw, stored = sum(it.raw_bytes for it in intervals), sum(it.stored_bytes for it in intervals)
    parts = [
        f"in all: {counted(writes, 'write')} ({human_bytes(raw)}, {human_bytes(stored)} stored)",
        counted(zeros, "zeroing"),
        counted(len(facts.flush_points) + facts.flush_points_left_out, "flush point"),
    ]
    if facts.flush_points and facts.flush_points_left_out:
        parts.append(f"of which the newest {len(facts.flush_points)} are listed")
    if facts.events_left_out:
        parts.append(f"{counted(facts.events_left_out, 'older event')} not shown")
    return ", ".join(parts)
