"""`cdp detach`: takes a device away that `cdp attach` made."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import print_json


def detach(
    context: typer.Context,
    *,
    device: Annotated[
        str,
        typer.Argument(
            metavar="DEVICE|DIR", help="What cdp attach printed, or the folder of its --mount.", show_default=False
        ),
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a device away. Refused while it is mounted or in use; a mount that cdp attach --mount made is unmounted."""
    from cdp.attach import mounting  # noqa: PLC0415

    with opened(context, store) as verbs:
        one = mounting.find(verbs.attachments(), device)
        if one is not None:
            mounting.unmount(one)
        facts = verbs.detach(device if one is None else one.device)
    if as_json:
        print_json(facts)
    else:
        print(f"detached {facts.device}")
