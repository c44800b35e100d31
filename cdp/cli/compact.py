"""`cdp compact`: keep a volume to its policy now, and free what nobody can reach."""

from __future__ import annotations

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import human_bytes, print_json


def compact(
    context: typer.Context, volume: VolumeArgument, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Give up what the policy does not keep, and free its space. The daemon does both by itself, as it is needed."""
    with opened(context, store) as verbs:
        facts = verbs.compact(volume)
    if as_json:
        print_json(facts)
    else:
        print(
            f"{facts.volume.name}: freed {human_bytes(facts.freed_bytes)}, wrote {human_bytes(facts.written_bytes)}, {human_bytes(facts.used_bytes)} used"
        )
