"""`cdp list`: the volumes of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import human_bytes, human_time, print_json, print_table, warn
from cdp.facts import AttachmentFacts


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
            ", ".join(map(_attached, it.attached)) or "-",
            it.id,
        )
        for it in volumes
    ]
    print_table(("NAME", "SIZE", "STATE", "CREATED", "CLONE OF", "ATTACHED", "ID"), rows, right=(1,))
    for it in volumes:
        for problem in it.problems:
            warn(problem)
        for one in it.attached:
            if one.state == "lost" and it.state == "failed":
                warn(f"{one.device} does not answer: {it.name} cannot be opened")
            elif one.state == "lost":
                warn(f"nothing answers behind {one.device} any more: cdp detach {one.device}")


def _attached(one: AttachmentFacts) -> str:
    instant = "" if one.lsn is None else f" @lsn:{one.lsn}"
    scratch = "" if one.scratch_id is None else f"+scratch={one.scratch_id}"
    mount = "" if one.mount is None else f" on {one.mount}"
    return one.device + instant + scratch + mount
