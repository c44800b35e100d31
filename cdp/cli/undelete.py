"""`cdp undelete`."""

from __future__ import annotations

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import print_json


def undelete(
    context: typer.Context, volume: VolumeArgument, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Bring a deleted volume back. Refused if its name was taken since."""
    with opened(context, store) as verbs:
        facts = verbs.undelete(volume)
    if as_json:
        print_json(facts)
    else:
        print(f"{facts.name} is back")
