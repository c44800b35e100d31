"""`cdp clone`: a volume of its own from any instant of another."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.instants import ExactOption, absolute
from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import human_time, print_json
from cdp.errors import Invalid
from cdp.when import Latest


def clone(
    context: typer.Context,
    *,
    source: Annotated[
        str, typer.Argument(metavar="VOLUME@WHEN", help="The volume, and the instant to begin at.", show_default=False)
    ],
    name: Annotated[str, typer.Argument(metavar="NEWVOLUME", help="The clone's name.", show_default=False)],
    exact: ExactOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a writable volume from an instant of another. It shares the history before it, so nothing is copied; either can be deleted."""
    from cdp.exports import parse_export  # noqa: PLC0415 (loads the volume's side)

    wanted = parse_export(source)
    if wanted.scratch is not None:
        raise Invalid(f"{source[:200]!r}: a scratch view is an export, not something to clone; leave +scratch out")
    with opened(context, store) as verbs:
        at = absolute(verbs, wanted.volume, wanted.when or Latest(), exact=exact)
        facts = verbs.clone(wanted.volume, at, name)
    if as_json:
        print_json(facts)
    elif facts.parent is not None:
        parent = facts.parent
        print(f"clone {facts.name} ({facts.id}): of {parent.name} at lsn:{parent.lsn} ({human_time(parent.stamp)})")
