"""`cdp detach`: takes a device away that `cdp attach` made."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import print_json


def detach(
    context: typer.Context,
    *,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="What cdp attach printed.", show_default=False)],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a device away. Refused while it is mounted or in use; a mount that cdp attach --mount made is unmounted."""
    from cdp.attach import mounting  # noqa: PLC0415

    with opened(context, store) as verbs:
        for one in verbs.attachments():
            if one.device == os.path.realpath(device):
                mounting.unmount(one)
        facts = verbs.detach(device)
    if as_json:
        print_json(facts)
    else:
        print(f"detached {facts.device}")
