"""Checkpoints and runs against the segments: an entry's place is a hint (docs/format.md, "Places are hints").

Compaction may have replaced the segment that an entry names, and given up the entry's record, or parts of it. Its LSN and
sectors then say which entries are meant, as far as there still are any.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

from cdp.salvage.batch import COVERING, DAMAGED, DATA, TRIM, ZERO
from cdp.salvage.recovery import Journal


class Shown(NamedTuple):
    """What sectors start..end show: an entry of `lsn` that begins at `origin` and has `whole` sectors, and where it lies."""

    start: int
    end: int
    kind: int
    lsn: int
    origin: int
    whole: int
    segment: int = 0
    offset: int = 0
    stored: int = 0

    def __str__(self) -> str:
        kind = "zero" if self.kind == TRIM else COVERING[self.kind]
        source = f" of LSN {self.lsn}" if self.lsn else ""
        place = f" in segment {self.segment} at {self.offset}" if self.kind == DATA else ""
        return f"{kind} {self.start}..{self.end} ({self.origin}+{self.whole}){source}{place}"


@dataclass(frozen=True, slots=True)
class Thinned:
    """Where compaction may have given up records: in ranges of compacted segments, and between segments up to the horizon."""

    firsts: tuple[int, ...]
    lasts: tuple[int, ...]
    compacted: tuple[bool, ...]
    horizon_lsn: int
    segments: frozenset[int]

    def may_lack(self, lsn: int) -> bool:
        """Whether the record of this number may be gone."""
        at = bisect_right(self.firsts, lsn) - 1
        if at >= 0 and lsn <= self.lasts[at]:
            return self.compacted[at]
        return lsn <= self.horizon_lsn

    def may_lack_between(self, after_lsn: int, last_lsn: int) -> bool:
        """Whether a record behind `after_lsn` up to `last_lsn` may be gone."""
        edges = [after_lsn + 1, min(last_lsn, self.horizon_lsn), *(lsn + 1 for lsn in self.lasts), *self.firsts]
        return any(self.may_lack(lsn) for lsn in edges if after_lsn < lsn <= last_lsn)

    def same(self, found: Shown, wanted: Shown) -> bool:
        """Whether an index entry says what the segments say."""
        if found.kind != DATA or wanted.kind != DATA:
            lost_since = (found.kind, wanted.kind) == (DATA, DAMAGED) and self.may_lack(found.lsn)
            return _reads_as(found.kind) == _reads_as(wanted.kind) or (lost_since and found.lsn == wanted.lsn)
        moved = found.segment not in self.segments and self.may_lack(found.lsn)
        return found.lsn == wanted.lsn and (moved or found[4:] == wanted[4:])


def thinned(journal: Journal, horizon_lsn: int) -> Thinned:
    """What the sealed segments of a journal tell."""
    items = sorted((s.item for s in journal.segments.values() if s.item.sealed), key=lambda item: item.first_lsn)
    return Thinned(
        tuple(item.first_lsn for item in items),
        tuple(item.last_lsn for item in items),
        tuple(item.compacted for item in items),
        horizon_lsn,
        frozenset(journal.segments),
    )


def _reads_as(kind: int) -> int:
    return ZERO if kind == TRIM else kind
