"""`cdp bookmark`: names for instants."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import human_time, print_json, warn_if_ambiguous
from cdp.errors import Invalid
from cdp.when import Ago, At, AtLsn, parse


def bookmark(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The bookmark's name.", show_default=False)] = None,
    at: Annotated[str, typer.Option(metavar="WHEN", help="The instant to name.")] = "latest",
    force: Annotated[bool, typer.Option("--force", help="Move a bookmark that there is already.")] = False,
    remove: Annotated[
        str | None, typer.Option(metavar="NAME", help="Take this name away instead.", show_default=False)
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name an instant of a volume, durably. VOLUME@bookmark:NAME is then an export, and bookmark:NAME a WHEN."""
    if (name is None) == (remove is None):
        raise Invalid("give a NAME to set, or --remove NAME")
    when = parse(at)
    with opened(context, store) as verbs:
        if remove is not None:
            facts = verbs.remove_bookmark(volume, remove)
        else:
            if isinstance(when, At | Ago):
                # A time may mean two instants: the one that is told of is the one that is named.
                instant = verbs.resolve(volume, when)
                warn_if_ambiguous(instant)
                when = AtLsn(instant.lsn)
            facts = verbs.bookmark(volume, name or "", when, force=force)
    if as_json:
        print_json(facts)
    else:
        print(f"{'removed' if remove else 'bookmark'} {facts.name}: lsn:{facts.lsn} ({human_time(facts.stamp)})")
