"""`cdp rollback`: go on from an earlier instant, or undo that."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.group import GroupOption, one_of
from cdp.cli.instants import ExactOption, absolute
from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import counted, human_time, print_json
from cdp.errors import Invalid
from cdp.facts import RollbackFacts
from cdp.group_facts import GroupRollbackFacts
from cdp.when import When, parse


def rollback(
    context: typer.Context,
    *,
    volume: Annotated[
        str | None, typer.Argument(metavar="VOLUME", help="Name (or ID) of the volume.", show_default=False)
    ] = None,
    group: GroupOption = None,
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
    """Make a volume, or with --group all its volumes, what they were. It takes no time, and everything written since can still be reached: a rollback is one record more."""
    subject = one_of(volume, group)
    if (to is None) == (not undo):
        raise Invalid("give --to WHEN, or --undo")
    wanted: When | None = None if to is None else parse(to)
    facts: RollbackFacts | GroupRollbackFacts
    with opened(context, store) as verbs:
        if group is not None:
            facts = verbs.groups.rollback(subject, wanted, force=force)
        else:
            if wanted is not None:
                wanted = absolute(verbs, subject, wanted, exact=exact)
            facts = verbs.rollback(subject, wanted, force=force)
    if as_json:
        print_json(facts)
    elif isinstance(facts, RollbackFacts):
        _print(facts)
    else:
        _print_group(facts)


def _print(facts: RollbackFacts) -> None:
    ended = f", {counted(facts.connections_ended, 'connection')} ended" if facts.connections_ended else ""
    print(f"{facts.volume} goes on from lsn:{facts.to.lsn} ({human_time(facts.to.stamp)}), as lsn:{facts.lsn}{ended}")
    print(
        f"before: lsn:{facts.before.lsn} ({human_time(facts.before.stamp)}); cdp rollback {facts.volume} --undo goes back there"
    )


def _print_group(facts: GroupRollbackFacts) -> None:
    ended = sum(it.connections_ended for it in facts.volumes)
    more = f", {counted(ended, 'connection')} ended" if ended else ""
    names = ", ".join(it.volume for it in facts.volumes)
    print(f"{facts.group} ({names}) goes on from {human_time(facts.to_stamp)}{more}")
    print(f"before: {human_time(facts.before_stamp)}; cdp rollback --group {facts.group} --undo goes back there")
