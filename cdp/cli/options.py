"""The arguments that verbs share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdp import config

if TYPE_CHECKING:
    from cdp.store import Store

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="Folder of the store. Else CDP_STORE, else /var/lib/cdp for root and the XDG data folder for others.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]
VolumeArgument = Annotated[
    str, typer.Argument(metavar="VOLUME", help="Name (or ID) of the volume.", show_default=False)
]

WHEN_HELP = "WHEN: 2026-11-22T10:48:20.5Z (RFC 3339) | -90s, -5m, -2h, -3d (ago) | @SECONDS | lsn:N | bookmark:NAME | latest | oldest"


def store_folder(context: typer.Context, chosen: Path | None) -> Path:
    """The store that a verb works on: its own option, else the one before the verb, else the surroundings'."""
    before = context.find_root().params.get("store")
    return config.store_path(chosen or (Path(before) if before else None))


@contextmanager
def opened(context: typer.Context, chosen: Path | None) -> Iterator[Store]:
    """The store's verbs, done by whoever can do them."""
    from cdp.control.reach import reach  # noqa: PLC0415 (help and wrong arguments need none of it)

    with reach(store_folder(context, chosen)) as store:
        yield store
