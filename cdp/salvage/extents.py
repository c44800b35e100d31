"""The extent map of one version: which entry each sector was last covered by.

Extents never overlap and stand in the order of their starts. They live in leaves of bounded length, so that covering a
range costs the same in a large map as in a small one; memory is proportional to the number of extents.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from cdp.salvage.batch import COVERING, Entry

Extent = tuple[int, int, Entry]
_LEAF_EXTENTS_MAX = 512


class ExtentMap:
    """A map from sectors to entries. An extent is (start, end, entry), in sectors; it may show a part of its entry."""

    def __init__(self) -> None:
        self._leaves: list[list[Extent]] = [[]]
        self._firsts = [0]

    def apply(self, entry: Entry) -> None:
        """Lets a later record's entry cover what came before."""
        if entry.kind in COVERING and entry.sectors:
            self.cover(entry.start, entry.end, entry)

    def cover(self, start: int, end: int, entry: Entry) -> None:
        """The sectors start..end (end exclusive) show `entry` from now on."""
        low = bisect_right(self._firsts, start) - 1
        if low > 0 and (before := self._leaves[low - 1]) and before[-1][1] > start:
            low -= 1
        high = max(low, bisect_left(self._firsts, end) - 1)
        leaf = self._leaves[low]
        for other in self._leaves[low + 1 : high + 1]:
            leaf.extend(other)
        del self._leaves[low + 1 : high + 1], self._firsts[low + 1 : high + 1]
        _cover_in(leaf, (start, end, entry))
        if len(leaf) > _LEAF_EXTENTS_MAX:
            self._split(low)

    def _split(self, at: int) -> None:
        leaf = self._leaves[at]
        half = _LEAF_EXTENTS_MAX // 2
        leaves = [leaf[n : n + half] for n in range(0, len(leaf), half)]
        self._leaves[at : at + 1] = leaves
        self._firsts[at + 1 : at + 1] = [leaf[0][0] for leaf in leaves[1:]]

    def __iter__(self) -> Iterator[Extent]:
        for leaf in self._leaves:
            yield from leaf

    def between(self, start: int, end: int) -> Iterator[Extent]:
        """The extents of the sectors start..end, cut at both."""
        if start >= end:
            return
        low = max(0, bisect_right(self._firsts, start) - 2)
        for leaf in self._leaves[low:]:
            for first, last, entry in leaf:
                if first >= end:
                    return
                if last > start:
                    yield max(first, start), min(last, end), entry


def _cover_in(leaf: list[Extent], new: Extent) -> None:
    start, end, _ = new
    low = bisect_left(leaf, start, key=_start)
    if low > 0 and leaf[low - 1][1] > start:
        low -= 1
    high = bisect_left(leaf, end, key=_start)
    pieces = [new]
    if low < high:
        first, last = leaf[low], leaf[high - 1]
        if first[0] < start:
            pieces.insert(0, (first[0], start, first[2]))
        if last[1] > end:
            pieces.append((end, last[1], last[2]))
    leaf[low:high] = pieces


def _start(extent: Extent) -> int:
    return extent[0]
