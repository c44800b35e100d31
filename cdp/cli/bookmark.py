"""`cdp bookmark`: names for instants."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from cdp.cli.group import GroupOption, one_of
from cdp.cli.instants import ExactOption, absolute
from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import bookmark_terms, human_time, print_json
from cdp.errors import Invalid
from cdp.facts import BookmarkFacts
from cdp.group_facts import GroupBookmarkFacts
from cdp.retention import spans
from cdp.when import SECOND, At, parse


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
    expires_stamp = None if expires is None else expiry(expires)
    facts: BookmarkFacts | GroupBookmarkFacts
    with opened(context, store) as verbs:
        if remove is not None:
            facts = verbs.groups.remove_bookmark(subject, remove) if group else verbs.remove_bookmark(subject, remove)
        elif group is not None:
            facts = verbs.groups.bookmark(
                subject, name or "", when, force=force, held=hold, expires_stamp=expires_stamp
            )
        else:
            when = absolute(verbs, subject, when, exact=exact)
            facts = verbs.bookmark(subject, name or "", when, force=force, held=hold, expires_stamp=expires_stamp)
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
