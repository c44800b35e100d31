"""`cdp bookmark`: names for instants."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdp.cli.group import GroupOption, one_of
from cdp.cli.instants import ExactOption, absolute
from cdp.cli.options import JsonOption, StoreOption, opened, store_folder
from cdp.cli.output import bookmark_terms, human_time, print_json
from cdp.errors import CdpError, Invalid
from cdp.facts import BookmarkFacts
from cdp.group_facts import GroupBookmarkFacts
from cdp.retention import spans
from cdp.when import SECOND, At, AtLsn, Latest, When, parse

if TYPE_CHECKING:
    from cdp.attach.freeze import Stillness
    from cdp.store import Store


def bookmark(
    context: typer.Context,
    *,
    volume: Annotated[
        str | None, typer.Argument(metavar="VOLUME", help="Name (or ID) of the volume.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The bookmark's name.", show_default=False)] = None,
    group: GroupOption = None,
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
    """Name an instant of a volume, or with --group one of all its volumes, durably. VOLUME@bookmark:NAME is then an export, and bookmark:NAME a WHEN."""
    if group is not None and volume is not None and name is None:
        # There is no VOLUME before it.
        volume, name = None, volume
    subject = one_of(volume, group)
    if (name is None) == (remove is None):
        raise Invalid("give a NAME to set, or --remove NAME")
    when = parse(at)
    still = bool(freeze) or hook is not None
    if still and (remove is not None or not isinstance(when, Latest)):
        raise Invalid("--freeze and --hook are for an instant that is now: not for --at or --remove")
    expires_stamp = None if expires is None else expiry(expires)
    facts: BookmarkFacts | GroupBookmarkFacts
    with opened(context, store) as verbs, ExitStack() as kept:
        if remove is not None:
            facts = verbs.groups.remove_bookmark(subject, remove) if group else verbs.remove_bookmark(subject, remove)
        else:
            if still:
                about = {"CDP_VOLUME": volume or "", "CDP_GROUP": group or "", "CDP_BOOKMARK": name or ""}
                wanted = _stillness(store_folder(context, store), freeze or [], hook, timeout, about)
                instant = _still_group if group else _still_volume
                when = kept.enter_context(instant(verbs, subject, wanted))
            elif group is None:
                when = absolute(verbs, subject, when, exact=exact)
            named = verbs.groups.bookmark if group else verbs.bookmark
            facts = named(subject, name or "", when, force=force, held=hold, expires_stamp=expires_stamp)
    if as_json:
        print_json(facts)
    else:
        _print(facts, removed=remove is not None)


def _print(facts: BookmarkFacts | GroupBookmarkFacts, *, removed: bool) -> None:
    more = bookmark_terms(facts)
    where = human_time(facts.stamp)
    if isinstance(facts, BookmarkFacts):
        where = f"lsn:{facts.lsn} ({where})"
    print(f"{'removed' if removed else 'bookmark'} {facts.name}: {where}{more and ', ' + more}")


def _stillness(store: Path, folders: list[Path], hook: str | None, timeout: float, about: dict[str, str]) -> Stillness:
    from cdp.attach import freeze  # noqa: PLC0415 (mostly nobody asks for it)

    seconds = freeze.check_seconds(timeout)
    environment = {"CDP_STORE": str(store), **about}
    return freeze.Stillness(freeze.check_folders(folders, store), hook, seconds, environment)


@contextmanager
def _still_volume(verbs: Store, volume: str, wanted: Stillness) -> Iterator[When]:
    """The newest instant while everything is still, kept reachable for the `with` block, where nothing is still any more."""
    with ExitStack() as held:
        with _named_while_still(wanted):
            lsn = verbs.resolve(volume, Latest()).lsn
            held.enter_context(verbs.hold(volume, lsn))
        yield AtLsn(lsn)


@contextmanager
def _still_group(verbs: Store, group: str, wanted: Stillness) -> Iterator[When]:
    """The same for all volumes of a group. It is not kept: a view of each volume would take a thread of the daemon each."""
    with _named_while_still(wanted):
        found = verbs.groups.resolve(group, Latest())
    yield At(found.stamp)


@contextmanager
def _named_while_still(wanted: Stillness) -> Iterator[None]:
    from cdp.attach.freeze import still  # noqa: PLC0415

    try:
        with still(wanted):
            yield
    except CdpError as error:
        raise type(error)(f"nothing was named: {error}") from error


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
