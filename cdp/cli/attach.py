"""`cdp attach`: a volume, or an instant of it, as a block device."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cdp.cli.instants import ExactOption, absolute_export
from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import print_json
from cdp.errors import CdpError


def attach(
    context: typer.Context,
    *,
    export: Annotated[
        str,
        typer.Argument(
            metavar="VOLUME[@WHEN[+scratch=ID]]",
            help="The live volume; an instant, read-only; or a writable view of one, thrown away.",
            show_default=False,
        ),
    ],
    read_only: Annotated[bool, typer.Option("--read-only", "-r", help="A device that cannot be written.")] = False,
    driver: Annotated[
        str | None,
        typer.Option(
            metavar="nbd|fuse",
            help="The kernel's nbd, or FUSE and a loop device. Default: what there is.",
            show_default=False,
        ),
    ] = None,
    mount: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also mount it there; an instant read-only, through a scratch view, so that the file system can replay its journal.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        int, typer.Option(metavar="SECONDS", help="How long reads and writes wait while the daemon is gone.", min=0)
    ] = 300,
    exact: ExactOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a block device of a volume, to be mounted; prints its path. Takes root, and the daemon, which owns the device (cdp detach ends it)."""
    from cdp.attach import mounting  # noqa: PLC0415 (loads the volume's side)
    from cdp.attach.left import Wish  # noqa: PLC0415
    from cdp.exports import parse_export  # noqa: PLC0415

    wanted = parse_export(export)
    folder = None if mount is None else mounting.check_folder(mount)
    with opened(context, store) as verbs:
        if wanted.when is not None:
            export = absolute_export(verbs, export, exact=exact)
        facts = verbs.attach(Wish(export, read_only, driver, None if folder is None else str(folder), timeout))
        if folder is not None:
            try:
                mounting.mount(facts, folder)
            except BaseException:
                with suppress(CdpError):
                    verbs.detach(facts.device)
                raise
    if as_json:
        print_json(facts)
    else:
        print(facts.device)
