"""Which records an instant's state is made of: rollbacks and ancestors (docs/format.md, "Lineage").

A path is a list of stretches of LSNs. A rollback at N to R leads from the records behind N to the path of R; an ancestor
counts as a rollback at its floor to its base.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from cdp.salvage.items import Ancestor

Jump = tuple[int, int]  # the LSN of a rollback (or a floor), and the LSN that it goes back to (or a base)


@dataclass(frozen=True, slots=True)
class Lineage:
    """The timelines that a volume, given by its id, was cloned from: `ancestors` in the order of their floors."""

    volume: str
    ancestors: tuple[Ancestor, ...] = ()

    @property
    def family(self) -> frozenset[str]:
        """The ids that a run or checkpoint of this volume may name."""
        return frozenset([self.volume, *(ancestor.volume for ancestor in self.ancestors)])

    @property
    def floor(self) -> int:
        """The last number that an ancestor's record can have."""
        return self.ancestors[-1].floor_lsn if self.ancestors else 0

    def writer(self, lsn: int) -> str:
        """The id of the timeline that wrote the record of this number."""
        return next((ancestor.volume for ancestor in self.ancestors if ancestor.floor_lsn >= lsn), self.volume)

    def payload_nonce(self, lsn: int) -> bytes:
        """The volume nonce in the checksum of that record's payloads."""
        return bytes.fromhex(self.writer(lsn))[:8]

    def exists(self, lsn: int) -> bool:
        """Whether records of this number are of this timeline, not of an ancestor's later one."""
        return not any(ancestor.base_lsn < lsn <= ancestor.floor_lsn for ancestor in self.ancestors)

    def next_number(self, lsn: int) -> int:
        """The first number above `lsn` that a record of this timeline can have."""
        lsn += 1
        for ancestor in self.ancestors:
            if ancestor.base_lsn < lsn <= ancestor.floor_lsn:
                lsn = ancestor.floor_lsn + 1
        return lsn

    def last_before(self, last_lsn: int, lsn: int) -> int:
        """`last_lsn` as the record at `lsn` sees it: the base where an ancestor went on behind it and `lsn` did not."""
        for ancestor in self.ancestors:
            if ancestor.base_lsn < last_lsn <= ancestor.floor_lsn < lsn:
                return ancestor.base_lsn
        return last_lsn

    def jumps(self, rollbacks: Iterable[Jump]) -> list[Jump]:
        """All that leads back, in the order of LSNs."""
        return sorted([*rollbacks, *((ancestor.floor_lsn, ancestor.base_lsn) for ancestor in self.ancestors)])


@dataclass(frozen=True, slots=True)
class Path:
    """Stretches (after, last): the LSNs above `after` up to `last`. They ascend and do not touch."""

    stretches: tuple[tuple[int, int], ...]

    def holds(self, lsn: int) -> bool:
        """Whether the record at `lsn` is on the path."""
        return self.meets(lsn, lsn)

    def meets(self, first: int, last: int) -> bool:
        """Whether any of the LSNs first..last is on the path."""
        at = bisect_left(self.stretches, first, key=_last)
        return at < len(self.stretches) and self.stretches[at][0] < last


def path_of(lsn: int, jumps: list[Jump]) -> Path:
    """The path of an LSN; `jumps` ascend, each leads to a smaller LSN."""
    stretches = []
    while lsn > 0:
        at = bisect_right(jumps, lsn, key=_first) - 1
        after, back = jumps[at] if at >= 0 else (0, 0)
        if after < lsn:
            stretches.append((after, lsn))
        lsn = back
    return Path(tuple(reversed(stretches)))


def _first(pair: tuple[int, int]) -> int:
    return pair[0]


def _last(pair: tuple[int, int]) -> int:
    return pair[1]
