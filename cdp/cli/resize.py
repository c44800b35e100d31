"""`cdp resize`: a larger volume."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import human_bytes, print_json
from cdp.description import check_size
from cdp.sizes import parse_size


def resize(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    size: Annotated[str, typer.Option(metavar="SIZE", help="10GiB, 512MiB, 1T or bytes.", show_default=False)],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a volume larger, also while it is in use. Older instants keep their size; clients see the new one when they connect anew.

    Volumes do not shrink: make a smaller one, and copy the file system.
    """
    wanted = check_size(parse_size(size))
    with opened(context, store) as verbs:
        facts = verbs.resize(volume, wanted)
    if as_json:
        print_json(facts)
    elif facts.lsn is None:
        print(f"{facts.volume.name} has {human_bytes(facts.volume.size)} already")
    else:
        print(
            f"{facts.volume.name} grew from {human_bytes(facts.size_before)} to {human_bytes(facts.volume.size)}, at lsn:{facts.lsn}"
        )
