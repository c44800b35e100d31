"""`cdp create`: a new volume, empty or over an origin."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import human_bytes, print_json
from cdp.description import check_block_size, check_size
from cdp.errors import Invalid
from cdp.names import check_name
from cdp.sizes import parse_size


def create(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="10GiB, 512MiB, 1T or bytes. Default: the origin's.", show_default=False),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DEVICE|nbd://…",
            help="A disk or image under the volume: only read, and kept as it is.",
            show_default=False,
        ),
    ] = None,
    block_size: Annotated[
        int,
        typer.Option(metavar="512|4096", help="What attached devices report; the journal keeps sectors of 512 bytes."),
    ] = 4096,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a volume, and the store if there is none yet."""
    check_name(volume, "volume")
    check_block_size(block_size)
    if size is None and origin is None:
        raise Invalid("a volume needs --size, or an --origin whose size it takes")
    bytes_wanted = None if size is None else check_size(parse_size(size))
    with opened(context, store) as verbs:
        made = verbs.create(volume, bytes_wanted, block_size, None if origin is None else _absolute(origin))
    if as_json:
        print_json(made)
    else:
        print(f"created {made.name}: {human_bytes(made.size)}")


def _absolute(origin: str) -> str:
    # The daemon may do the work, and it stands in another folder.
    from cdp.origin import is_nbd_uri  # noqa: PLC0415

    path = origin if is_nbd_uri(origin) else os.path.abspath(origin)
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"the origin {path!r} has a path that is no UTF-8, and cannot be recorded") from error
    return path
