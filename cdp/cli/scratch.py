"""`cdp scratch`: the scratch views of a volume."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import human_time, print_json, print_table


def scratch(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    release: Annotated[str | None, typer.Option(metavar="ID", help="Throw this one away.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Also while connections use it: they are ended.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the scratch views of a volume that have an ID, or release one. (VOLUME@WHEN+scratch=ID makes one when it is opened.)"""
    with opened(context, store) as verbs:
        if release is None:
            views = verbs.scratch_views(volume)
        else:
            views = (verbs.release_scratch(volume, release, force=force),)
    if as_json:
        print_json(views if release is None else views[0])
    elif release is not None:
        print(f"released {release}")
    else:
        rows = [
            (it.id, f"lsn:{it.lsn}", human_time(it.stamp), human_time(it.made_stamp), str(it.connections))
            for it in views
        ]
        print_table(("ID", "LSN", "TIME", "MADE", "CONNECTIONS"), rows, right=(4,))
