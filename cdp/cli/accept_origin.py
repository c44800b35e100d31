"""`cdp accept-origin`: the disk under a volume changed, and is still the right one."""

from __future__ import annotations

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import print_json


def accept_origin(
    context: typer.Context, volume: VolumeArgument, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Take a volume's origin as it is now, after it changed. Recorded as an event.

    What the volume shows where nothing was written to it is then what the origin holds now, at every instant.
    """
    with opened(context, store) as verbs:
        facts = verbs.accept_origin(volume)
    if as_json:
        print_json(facts)
    else:
        print(f"the origin of {facts.name} is accepted as it is")
