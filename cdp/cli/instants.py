"""An instant that a verb is given: looked up once, so that what is told of is what is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cdp.cli.output import human_time, warn_if_inexact
from cdp.errors import NotFound
from cdp.when import Ago, At, AtLsn, Latest, When

if TYPE_CHECKING:
    from cdp.facts import InstantFacts
    from cdp.store import Store

ExactOption = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Refuse a time of which not every write is kept; without it the newest instant kept before that time stands for it.",
    ),
]


def absolute(store: Store, volume: str, wanted: When, *, exact: bool) -> When:
    """`wanted`, a time as the LSN that it means. A time may mean two instants, or one that only stands for it: that is told. NotFound if it is not `exact`, and must be."""
    if not isinstance(wanted, At | Ago):
        return wanted
    instant = store.resolve(volume, wanted)
    if exact:
        require_exact(instant, f"{volume}: {wanted}")
    warn_if_inexact(instant)
    return AtLsn(instant.lsn)


def absolute_export(store: Store, export: str, *, exact: bool) -> str:
    """An export's name with its WHEN looked up; the live volume's as `@latest`, for what looks at it and must not touch it."""
    from cdp.exports import parse_export  # noqa: PLC0415 (loads the volume's side)

    wanted = parse_export(export)
    scratch = "" if wanted.scratch is None else f"+scratch={wanted.scratch}" if wanted.scratch else "+scratch"
    return f"{wanted.volume}@{absolute(store, wanted.volume, wanted.when or Latest(), exact=exact)}{scratch}"


def require_exact(instant: InstantFacts, named: str) -> None:
    """NotFound if the instant only stands for the time that was asked for. `named`: the beginning of the sentence."""
    if instant.kept_point:
        raise NotFound(
            f"{named} lies in a time of which not every write is kept: the newest instant kept before it is lsn:{instant.lsn} ({human_time(instant.stamp)}); "
            "ask for that one, or leave --exact out"
        )
