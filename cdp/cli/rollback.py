"""`cdp rollback`: go on from an earlier instant, or undo that."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.instants import ExactOption, absolute
from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import counted, human_time, print_json
from cdp.errors import Invalid
from cdp.facts import RollbackFacts
from cdp.when import When, parse


def rollback(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    to: Annotated[
        str | None, typer.Option(metavar="WHEN", help="The instant to go on from.", show_default=False)
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the newest rollback. An undo can be undone.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="End the connections that could write; what they wrote stays in the history."),
    ] = False,
    exact: ExactOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a volume what it was. It takes no time, and everything written since can still be reached: a rollback is one record more."""
    if (to is None) == (not undo):
        raise Invalid("give --to WHEN, or --undo")
    wanted: When | None = None if to is None else parse(to)
    with opened(context, store) as verbs:
        if wanted is not None:
            wanted = absolute(verbs, volume, wanted, exact=exact)
        facts = verbs.rollback(volume, wanted, force=force)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _print(facts: RollbackFacts) -> None:
    ended = f", {counted(facts.connections_ended, 'connection')} ended" if facts.connections_ended else ""
    print(f"{facts.volume} goes on from lsn:{facts.to.lsn} ({human_time(facts.to.stamp)}), as lsn:{facts.lsn}{ended}")
    print(
        f"before: lsn:{facts.before.lsn} ({human_time(facts.before.stamp)}); cdp rollback {facts.volume} --undo goes back there"
    )
