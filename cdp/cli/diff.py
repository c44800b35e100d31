"""`cdp diff`: where a volume differs between two instants."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cdp.changes import Differences, Extents, Point, parse_point
from cdp.cli.instants import ExactOption, require_exact
from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import counted, human_bytes, human_time, warn_if_inexact
from cdp.facts import InstantFacts, document

CONTEXT_SETTINGS = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
"""`-5m` and `-2h` are instants here, not options."""

ROWS_MAX = 1000
"""Extents that a table shows without --all."""

PointArgument = Annotated[str, typer.Argument(metavar="FROM", help="The one instant.", show_default=False)]


def diff(
    context: typer.Context,
    volume: VolumeArgument,
    since: PointArgument,
    until: Annotated[str, typer.Argument(metavar="TO", help="The other instant.", show_default=False)],
    every: Annotated[bool, typer.Option("--all", help=f"List more than {ROWS_MAX} extents.")] = False,
    exact: ExactOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which parts of a volume were written since two instants' histories parted, from the index alone.

    FROM and TO are WHENs, also on different sides of a rollback, or VOLUME@WHEN for an instant of a volume that shares history with
    this one: a clone's parent, a parent's clone. What was written and is the same again counts as changed.
    """
    points: tuple[Point, Point] = (parse_point(since), parse_point(until))
    with opened(context, store) as verbs, verbs.diff(volume, *points) as found:
        for end, point in zip((found.facts.since, found.facts.until), points, strict=True):
            if exact:
                require_exact(end, str(point))
            warn_if_inexact(end)
        if as_json:
            _print_json(found)
        else:
            _print_table(found, rows_max=None if every else ROWS_MAX)


class _Sum:
    def __init__(self) -> None:
        self.extents = 0
        self.length = 0

    def add(self, page: Extents) -> None:
        self.extents += len(page)
        self.length += sum(length for _, length in page)


def _print_json(found: Differences) -> None:
    """One document, written as it comes: there may be millions of extents."""
    total = _Sum()
    head = json.dumps(document(found.facts), indent=2).removesuffix("\n}")
    print(f'{head},\n  "extents": [', end="")
    for page in found.pages:
        rows = (f'\n    {{"offset": {offset}, "length": {length}}}' for offset, length in page)
        print("," * bool(total.extents) + ",".join(rows), end="")
        total.add(page)
    print(f'\n  ],\n  "changed_extents": {total.extents},\n  "changed_bytes": {total.length}\n}}')


def _print_table(found: Differences, rows_max: int | None) -> None:
    total = _Sum()
    width = max(len(str(found.facts.size)), len("OFFSET"))
    for page in found.pages:
        if not total.extents:
            print(f"{'OFFSET':>{width}}  {'LENGTH':>{width}}  SIZE")
        shown = page if rows_max is None else page[: max(0, rows_max - total.extents)]
        for offset, length in shown:
            print(f"{offset:>{width}}  {length:>{width}}  {human_bytes(length)}")
        total.add(page)
    if rows_max is not None and total.extents > rows_max:
        print(f"and {total.extents - rows_max} more (--all lists them)")
    facts = found.facts
    ends = f"{_end(facts.since_volume, facts.since)} and {_end(facts.until_volume, facts.until)}"
    print(
        f"{counted(total.extents, 'extent')}, {human_bytes(total.length)} of {human_bytes(facts.size)}, between {ends}"
    )


def _end(volume: str, instant: InstantFacts) -> str:
    return f"{volume}@lsn:{instant.lsn} ({human_time(instant.stamp)})"
