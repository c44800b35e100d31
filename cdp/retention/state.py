"""What a plan is made from: a volume's history and space at one moment, as plain values.

Invariants:
- LSNs are in the order of time; stamps need not be, for clocks are set back. What is older is what has the smaller LSN.
- Every LSN here is an instant that can be reached: a record at or above the horizon, or a point below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Point:
    """An instant. `flush`: somebody asked for it to be durable."""

    lsn: int
    stamp: int
    flush: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A bookmark; `held`: it is never given up for space; `expires_stamp` None: it stays until it is removed."""

    name: str
    lsn: int
    stamp: int
    held: bool = False
    expires_stamp: int | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """Somebody reads that instant. `kind`: view, restore (both can be ended), or another (it cannot)."""

    lsn: int
    kind: str

    @property
    def closable(self) -> bool:
        return self.kind in ("view", "restore")


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes on disk. `soft`, `hard`: where slow-down begins and where writes wait or fail; None: no bound is in sight."""

    used: int
    dead: int
    """Of them, what compaction could free as things are."""
    window: int = 0
    """Of them, what records above the horizon stored."""
    soft: int | None = None
    hard: int | None = None
    tight: bool = False
    """Writes wait or fail now, or are about to."""
    disk_full: bool = False
    measured: bool = True
    """False while `dead` does not know yet all that was given up."""
    expected: int = 0
    """What will be dead besides once that is known, at most."""
    ahead: int = 0
    """What will be written before the next look."""


class History(Protocol):
    """What a plan looks up in the history at or above the horizon, as far as no crash can take it back."""

    def last(self, stamp: int, below: int | None = None) -> Point | None:
        """The newest record stamped at or before `stamp`, with an LSN less than `below`; LSN 0 is one. None if there is none."""

    def point(self, lsn: int) -> Point | None:
        """The record, None if there is none of that LSN."""

    def minutes(self, since: int, until: int) -> Sequence[tuple[int, int]]:
        """(minute since 1970, bytes) of the minutes with records from LSN `since` on, below `until`, ascending.

        The bytes are those that data took, and something for each zeroing: it makes older data useless too. Control records have none.
        """

    def flushes(self, since: int, until: int) -> Sequence[int]:
        """The flush points from LSN `since` on, below `until`, ascending."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A volume at one moment."""

    latest: Point
    horizon: Point
    points: tuple[Point, ...]
    """What is kept below the horizon, in the order of LSNs; what the engine keeps for its pins included."""
    marks: tuple[Mark, ...]
    pins: tuple[Pin, ...]
    space: Space
    history: History
    shortened: bool = False
    """The timeline says that history was given up for space, and not yet that it reaches back as promised again."""
    minimum_broken: bool = False
    """The same of the guaranteed minimum."""
    cut_stamp: int = 0
    """Up to where history was given up for space last; the horizon's stamp where nobody remembers."""
