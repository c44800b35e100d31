"""`cdp rename`."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import print_json


def rename(
    context: typer.Context,
    volume: VolumeArgument,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.", show_default=False)],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a volume another name. Sessions that have it open go on."""
    with opened(context, store) as verbs:
        facts = verbs.rename(volume, new)
    if as_json:
        print_json(facts)
    else:
        print(f"renamed {volume} to {facts.name}")
