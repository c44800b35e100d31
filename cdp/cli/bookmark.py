"""`cdp bookmark`: names for instants."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdp.cli.instants import ExactOption, absolute
from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened, store_folder
from cdp.cli.output import bookmark_terms, human_time, print_json
from cdp.errors import CdpError, Invalid
from cdp.retention import spans
from cdp.when import SECOND, At, AtLsn, Latest, parse

if TYPE_CHECKING:
    from cdp.attach.freeze import Stillness
    from cdp.store import Store


def bookmark(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The bookmark's name.", show_default=False)] = None,
    at: Annotated[str, typer.Option(metavar="WHEN", help="The instant to name.")] = "latest",
    force: Annotated[bool, typer.Option("--force", help="Move a bookmark that there is already.")] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Never give it up for space: writes wait instead.")] = False,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="When it goes by itself: after 30d, 12h, … or at a time.", show_default=False
        ),
    ] = None,
    remove: Annotated[
        str | None, typer.Option(metavar="NAME", help="Take this name away instead.", show_default=False)
    ] = None,
    freeze: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MOUNTPOINT",
            help="Flush and freeze the file system that is mounted there, name the instant, thaw it. Several times for several.",
            show_default=False,
        ),
    ] = None,
    hook: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="A shell command that is called with CDP_HOOK=before, and with CDP_HOOK=after when all is thawed.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long it may be frozen, and each call of the hook may take.")
    ] = 30,
    exact: ExactOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name an instant of a volume, durably. VOLUME@bookmark:NAME is then an export, and bookmark:NAME a WHEN."""
    if (name is None) == (remove is None):
        raise Invalid("give a NAME to set, or --remove NAME")
    when = parse(at)
    still = bool(freeze) or hook is not None
    if still and (remove is not None or not isinstance(when, Latest)):
        raise Invalid("--freeze and --hook are for an instant that is now: not for --at or --remove")
    expires_stamp = None if expires is None else expiry(expires)
    with opened(context, store) as verbs, ExitStack() as kept:
        if remove is not None:
            facts = verbs.remove_bookmark(volume, remove)
        else:
            if still:
                wanted = _stillness(store_folder(context, store), freeze or [], hook, timeout, volume, name or "")
                when = kept.enter_context(_still_instant(verbs, volume, wanted))
            else:
                when = absolute(verbs, volume, when, exact=exact)
            facts = verbs.bookmark(volume, name or "", when, force=force, held=hold, expires_stamp=expires_stamp)
    if as_json:
        print_json(facts)
    else:
        more = bookmark_terms(facts)
        print(
            f"{'removed' if remove else 'bookmark'} {facts.name}: lsn:{facts.lsn} ({human_time(facts.stamp)}){more and ', ' + more}"
        )


def _stillness(store: Path, folders: list[Path], hook: str | None, timeout: float, volume: str, name: str) -> Stillness:
    from cdp.attach import freeze  # noqa: PLC0415 (mostly nobody asks for it)

    seconds = freeze.check_seconds(timeout)
    environment = {"CDP_STORE": str(store), "CDP_VOLUME": volume, "CDP_BOOKMARK": name}
    return freeze.Stillness(freeze.check_folders(folders, store), hook, seconds, environment)


@contextmanager
def _still_instant(verbs: Store, volume: str, wanted: Stillness) -> Iterator[AtLsn]:
    """The newest instant while everything is still, kept reachable for the `with` block, where nothing is still any more."""
    from cdp.attach.freeze import still  # noqa: PLC0415

    with ExitStack() as held:
        try:
            with still(wanted):
                lsn = verbs.resolve(volume, Latest()).lsn
                held.enter_context(verbs.hold(volume, lsn))
        except CdpError as error:
            raise type(error)(f"nothing was named: {error}") from error
        yield AtLsn(lsn)


def expiry(text: str) -> int:
    """The stamp that `--expires` names: a time, or a length of time from now on."""
    if spans.is_span(text):
        return time.time_ns() + (spans.parse(text) or 0) * SECOND
    wanted = parse(text)
    if not isinstance(wanted, At):
        raise Invalid(
            f"{text!r} is no time at which a bookmark can expire: give one as 2027-01-31T12:00:00Z, or as 30d"
        )
    return wanted.stamp
