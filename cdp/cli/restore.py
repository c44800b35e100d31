"""`cdp restore`, also `pit-restore`: a volume as it was, written somewhere else."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.instants import ExactOption, absolute
from cdp.cli.options import WHEN_HELP, JsonOption, StoreOption, VolumeArgument, opened, store_folder
from cdp.cli.output import human_bytes, human_time, print_json, progress_bar, warn, warn_if_inexact
from cdp.cli.run import run
from cdp.errors import Corrupt
from cdp.when import parse

DAMAGE_SHOWN = 20
"""Places that are named one by one for people."""


def restore(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    at: Annotated[str, typer.Option(metavar="WHEN", help="The instant to restore.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            metavar="FILE|DEVICE|nbd://…",
            help="Where to: a new file (sparse), a block device, or an export of an NBD server.",
            show_default=False,
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file if there is one, where it differs.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read back what was written, and compare.")] = False,
    allow_damage: Annotated[
        bool,
        typer.Option(
            "--allow-damage", help="Restore the rest if blocks are unreadable, with zeros there (exit code 7)."
        ),
    ] = False,
    exact: ExactOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a volume as it was at any instant, whether or not it is being served."""
    from cdp import restore as work  # noqa: PLC0415 (loads the native module)

    with opened(context, store) as verbs:
        wanted = parse(at)
        if exact:
            wanted = absolute(verbs, volume, wanted, exact=True)
        order = work.Order(volume, wanted, to, force, verify, allow_damage)
        try:
            facts = work.restore(verbs, store_folder(context, store), order, progress_bar)
        except BaseException as error:
            for sentence in getattr(error, "__notes__", ()):
                warn(sentence)
            raise
    warn_if_inexact(facts.instant)
    if as_json:
        print_json(facts)
    else:
        checked = ", compared" if facts.verified else ""
        before = f", {human_bytes(facts.resumed_bytes)} done by an earlier run" if facts.resumed_bytes else ""
        print(
            f"restored {facts.volume} as of lsn:{facts.instant.lsn} ({human_time(facts.instant.stamp)}) to {facts.target}: "
            f"{human_bytes(facts.size)}, {human_bytes(facts.written_bytes)} of it written{before}{checked}"
        )
    if facts.damage:
        for damage in facts.damage[:DAMAGE_SHOWN]:
            warn(
                f"bytes {damage.offset} to {damage.offset + damage.length} are missing, zeros stand there: {damage.why}"
            )
        more = (
            f"; the first {DAMAGE_SHOWN} places are named, --json names more"
            if len(facts.damage) > DAMAGE_SHOWN
            else ""
        )
        warn(f"{human_bytes(facts.damaged_bytes)} are missing in all{more}")
        raise typer.Exit(Corrupt.exit_code)


def main() -> None:
    """The entry point of `pit-restore`."""
    app = typer.Typer(name="pit-restore", pretty_exceptions_enable=False, add_completion=False)
    app.command(epilog=WHEN_HELP, context_settings={"help_option_names": ["-h", "--help"]})(restore)
    run(app, "pit-restore")


if __name__ == "__main__":
    main()
