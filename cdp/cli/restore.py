"""`cdp restore`, also `pit-restore`: a volume as it was, written somewhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdp.cli.group import GroupOption, one_of
from cdp.cli.instants import ExactOption, absolute
from cdp.cli.options import WHEN_HELP, JsonOption, StoreOption, opened, store_folder
from cdp.cli.output import human_bytes, human_time, print_json, progress_bar, warn, warn_if_inexact
from cdp.cli.run import run
from cdp.errors import Corrupt
from cdp.when import parse

if TYPE_CHECKING:
    from cdp.restore import RestoreFacts

DAMAGE_SHOWN = 20
"""Places that are named one by one for people."""


def restore(
    context: typer.Context,
    *,
    volume: Annotated[
        str | None, typer.Argument(metavar="VOLUME", help="Name (or ID) of the volume.", show_default=False)
    ] = None,
    group: GroupOption = None,
    at: Annotated[str, typer.Option(metavar="WHEN", help="The instant to restore.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            metavar="FILE|DEVICE|nbd://…|DIR",
            help="Where to: a new file (sparse), a block device, or an export of an NBD server. With --group a folder, for a file VOLUME.img each.",
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
    """Restore a volume as it was at any instant, or with --group all its volumes at one, whether or not they are being served."""
    from cdp import group_restore  # noqa: PLC0415
    from cdp import restore as work  # noqa: PLC0415 (loads the native module)

    subject = one_of(volume, group)
    facts: work.RestoreFacts | group_restore.GroupRestoreFacts
    with opened(context, store) as verbs:
        wanted = parse(at)
        if exact and group is None:
            wanted = absolute(verbs, subject, wanted, exact=True)
        terms = (force, verify, allow_damage)
        path = store_folder(context, store)
        try:
            if group is None:
                facts = work.restore(verbs, path, work.Order(subject, wanted, to, *terms), progress_bar)
            else:
                # An instant of a group is always exact.
                several = group_restore.GroupOrder(subject, wanted, Path(to), *terms)
                facts = group_restore.restore_group(verbs, path, several, progress_bar)
        except BaseException as error:
            for sentence in getattr(error, "__notes__", ()):
                warn(sentence)
            raise
    done = (facts,) if isinstance(facts, work.RestoreFacts) else facts.volumes
    for one in done:
        warn_if_inexact(one.instant)
        if not as_json:
            _print(one)
    if as_json:
        print_json(facts)
    if any(one.damage for one in done):
        for one in done:
            _warn_of_damage(one)
        raise typer.Exit(Corrupt.exit_code)


def _print(facts: RestoreFacts) -> None:
    checked = ", compared" if facts.verified else ""
    before = f", {human_bytes(facts.resumed_bytes)} done by an earlier run" if facts.resumed_bytes else ""
    print(
        f"restored {facts.volume} as of lsn:{facts.instant.lsn} ({human_time(facts.instant.stamp)}) to {facts.target}: "
        f"{human_bytes(facts.size)}, {human_bytes(facts.written_bytes)} of it written{before}{checked}"
    )


def _warn_of_damage(facts: RestoreFacts) -> None:
    if not facts.damage:
        return
    for damage in facts.damage[:DAMAGE_SHOWN]:
        warn(f"bytes {damage.offset} to {damage.offset + damage.length} are missing, zeros stand there: {damage.why}")
    more = f"; the first {DAMAGE_SHOWN} places are named, --json names more" if len(facts.damage) > DAMAGE_SHOWN else ""
    warn(f"{human_bytes(facts.damaged_bytes)} of {facts.volume} are missing in all{more}")


def main() -> None:
    """The entry point of `pit-restore`."""
    app = typer.Typer(name="pit-restore", pretty_exceptions_enable=False, add_completion=False)
    app.command(epilog=WHEN_HELP, context_settings={"help_option_names": ["-h", "--help"]})(restore)
    run(app, "pit-restore")


if __name__ == "__main__":
    main()
