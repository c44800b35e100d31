"""`cdp log`: the timeline of a volume."""

from __future__ import annotations

import json
import shutil
from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import counted, human_bytes, human_time, print_json, print_table, warn_if_ambiguous
from cdp.facts import BookmarkFacts, EventFacts, LogFacts, MinuteFacts
from cdp.when import parse


def log(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    since: Annotated[str, typer.Option(metavar="WHEN", help="Where to begin.")] = "oldest",
    until: Annotated[str, typer.Option(metavar="WHEN", help="Where to end.")] = "latest",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to a volume: writes and flush points by the minute, bookmarks, events, in one timeline (UTC)."""
    first, last = parse(since), parse(until)
    with opened(context, store) as verbs:
        facts = verbs.log(volume, first, last)
    for end in (facts.since, facts.until):
        warn_if_ambiguous(end)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _print(facts: LogFacts) -> None:
    from cdp.timeline import merge, sparkline  # noqa: PLC0415

    since, until = facts.since, facts.until
    print(
        f"{facts.volume.name}: lsn:{since.lsn} ({human_time(since.stamp)}) to lsn:{until.lsn} ({human_time(until.stamp)})"
    )
    bars, step = sparkline(facts, max(10, shutil.get_terminal_size().columns - 30))
    if bars:
        print(f"written  {bars}  ({step} min a bar)")
    rows = [
        (human_time(row.stamp), "-" if row.lsn is None else f"lsn:{row.lsn}", row.kind, describe(row.item))
        for row in merge(facts)
    ]
    if rows:
        print_table(("TIME", "LSN", "WHAT", "DETAILS"), rows)
    if facts.flush_points_left_out:
        print(f"{facts.flush_points_left_out} older flush points are not counted")


def describe(item: MinuteFacts | BookmarkFacts | EventFacts) -> str:
    """A thing on the timeline in words."""
    match item:
        case MinuteFacts():
            parts = [
                f"{counted(item.data_records, 'write')} ({human_bytes(item.raw_bytes)}, {human_bytes(item.stored_bytes)} stored)"
                if item.data_records
                else "",
                counted(item.zero_records, "zeroing") if item.zero_records else "",
                counted(item.flush_points, "flush point") if item.flush_points else "",
            ]
            return ", ".join(part for part in parts if part)
        case BookmarkFacts():
            return item.name
        case EventFacts():
            details = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in item.details.items())
            return " ".join((item.event, *details))
