"""`cdp cp`: a file or a folder out of any instant."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cdp.cli.instants import ExactOption
from cdp.cli.ls import PlaceArgument
from cdp.cli.options import StoreOption, opened
from cdp.errors import Io


def cp(
    context: typer.Context,
    *,
    place: PlaceArgument,
    target: Annotated[
        Path,
        typer.Argument(metavar="DEST", help="Where to: a folder that is there, or a new name.", show_default=False),
    ],
    exact: ExactOption = False,
    store: StoreOption = None,
) -> None:
    """Copy a file, or a folder with all in it, as it was: with owner, mode, times and links. Takes root and the daemon."""
    from cdp.attach import inside  # noqa: PLC0415 (loads the volume's side)
    from cdp.cli.instants import absolute_export  # noqa: PLC0415

    with opened(context, store) as verbs:
        absolute = partial(absolute_export, verbs, exact=exact)
        with inside.found(verbs, place, absolute) as source:
            # cp keeps what a Python copy would lose: sparse ranges, extended attributes, hard links in a folder.
            done = subprocess.run(
                ["cp", "--archive", "--", str(source), str(target)], stderr=subprocess.PIPE, text=True, check=False
            )
    if done.returncode:
        raise Io(f"{place} is not copied, or not whole: {done.stderr.strip()}")
