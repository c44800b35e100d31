"""`cdp ls`: what is in a folder, at any instant."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdp.cli.instants import ExactOption
from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import human_bytes, human_time, print_json, print_table

if TYPE_CHECKING:
    from cdp.facts import FileFacts

PlaceArgument = Annotated[
    str,
    typer.Argument(metavar="VOLUME[@WHEN]:/PATH", help="A path on the disk, at an instant.", show_default=False),
]


def ls(
    context: typer.Context,
    *,
    place: PlaceArgument,
    exact: ExactOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a folder (or a file) as it was. Mounts the instant for a moment, as `cdp attach --mount` does: takes root and the daemon."""
    from cdp.attach import inside  # noqa: PLC0415 (loads the volume's side)
    from cdp.cli.instants import absolute_export  # noqa: PLC0415

    with opened(context, store) as verbs:
        absolute = partial(absolute_export, verbs, exact=exact)
        with inside.found(verbs, place, absolute) as path:
            found = _listed(path)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            it.mode,
            f"{it.uid}:{it.gid}",
            human_bytes(it.size),
            human_time(it.changed_stamp),
            it.name if it.link is None else f"{it.name} -> {it.link}",
        )
        for it in found
    ]
    print_table(("MODE", "OWNER", "SIZE", "CHANGED", "NAME"), rows, right=(2,))


def _listed(path: Path) -> list[FileFacts]:
    if path.is_dir():
        return [_facts(it) for it in sorted(path.iterdir())]
    return [_facts(path)]


def _facts(path: Path) -> FileFacts:
    from cdp.facts import FileFacts  # noqa: PLC0415

    status = path.lstat()
    link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
    name = os.fsencode(path.name).decode(errors="backslashreplace")
    mode = stat.filemode(status.st_mode)
    return FileFacts(name, mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, link)
