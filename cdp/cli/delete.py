"""`cdp delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import print_json


def delete(
    context: typer.Context,
    volume: VolumeArgument,
    now: Annotated[
        bool, typer.Option("--now", help="Remove it and its history for good, also if it was deleted before.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a volume. Its name is free then; its history is kept, and cdp undelete brings it back."""
    with opened(context, store) as verbs:
        facts = verbs.delete(volume, now=now)
    if as_json:
        print_json(facts)
    elif now:
        print(f"removed {facts.name or facts.id} for good")
    else:
        print(f"deleted {facts.name} (cdp undelete {facts.id} brings it back)")
