"""Where two instants differ: which two are meant, and the extents between them, page by page.

Invariants:
- `parse_point` is pure: `VOLUME@WHEN` names an instant of another volume, which must share history with the one at hand (a clone and its parent);
  anything else is a WHEN. (No WHEN has an `@` but at its beginning.)
- Both instants are held, by open views, from the first page to the last.
- Extents ascend, are whole sectors, do not touch each other, and lie inside the later volume's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdp.description import SECTOR
from cdp.facts import DiffFacts
from cdp.names import check_name
from cdp.volume import OpenVolume
from cdp.when import When, parse

if TYPE_CHECKING:
    from cdp import _native

PAGE_EXTENTS = 16384
"""Extents that are asked for at once: some megabytes as text, and a short call."""

Extents = list[tuple[int, int]]
"""(offset, length) in bytes."""


@dataclass(frozen=True, slots=True)
class Point:
    """An instant: of the volume at hand where `volume` is None."""

    when: When
    volume: str | None = None

    def __str__(self) -> str:
        return str(self.when) if self.volume is None else f"{self.volume}@{self.when}"


def parse_point(text: str) -> Point:
    """Pure. Invalid if it names no instant."""
    volume, at, rest = text.partition("@")
    if not at or not volume:
        return Point(parse(text))
    return Point(parse(rest), check_name(volume, "volume"))


@dataclass(frozen=True, slots=True)
class Differences:
    """What was compared, and what differs; to be used up while the volumes are open."""

    facts: DiffFacts
    pages: Iterator[Extents]


def compare(since: tuple[OpenVolume, When], until: tuple[OpenVolume, When]) -> Differences:
    """Invalid if the volumes have no history in common, NotFound for an instant that cannot be reached."""
    (first, first_view), (last, last_view) = ((volume.instant(when), volume) for volume, when in (since, until))
    before, after = first_view.native.view(first.lsn), last_view.native.view(last.lsn)
    # Asked here, so that volumes that cannot be compared are refused before the first page.
    after.changed(before, 0, SECTOR, 1)
    facts = DiffFacts(
        since_volume=first_view.entry.name,
        since=first,
        until_volume=last_view.entry.name,
        until=last,
        size=after.size,
    )
    return Differences(facts, _pages(before, after))


def _pages(before: _native.View, after: _native.View) -> Iterator[Extents]:
    at = 0
    while at < after.size:
        page = after.changed(before, at, after.size - at, PAGE_EXTENTS)
        if page:
            yield page
        if len(page) < PAGE_EXTENTS:
            return
        at = sum(page[-1])
