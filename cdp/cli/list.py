"""`cdp list`: the volumes of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import human_bytes, human_time, print_json, print_table, warn


def list_volumes(
    context: typer.Context,
    all_volumes: Annotated[bool, typer.Option("--all", "-a", help="Deleted ones too.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the volumes. A damaged one is listed by its ID (cdp show tells more)."""
    with opened(context, store) as verbs:
        volumes = [it for it in verbs.list() if all_volumes or it.state != "deleted"]
    if as_json:
        print_json(volumes)
        return
    rows = [
        (
            it.name or f"damaged {it.id}",
            human_bytes(it.size),
            it.state,
            human_time(it.created_stamp),
            "-" if it.parent is None else f"{it.parent.name}@lsn:{it.parent.lsn}",
            it.id,
        )
        for it in volumes
    ]
    print_table(("NAME", "SIZE", "STATE", "CREATED", "CLONE OF", "ID"), rows, right=(1,))
    for it in volumes:
        for problem in it.problems:
            warn(problem)
