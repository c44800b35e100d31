"""The extent map against a plain list with one item a sector."""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import given

from cdp.salvage.batch import DATA, Entry
from cdp.salvage.extents import ExtentMap

SECTORS = 6000


def _agrees(extents: ExtentMap, plain: list[int], start: int, end: int) -> None:
    shown = [0] * (end - start)
    behind = start
    for first, last, entry in extents.between(start, end):
        assert behind <= first < last <= end
        assert entry.start <= first
        assert last <= entry.end
        shown[first - start : last - start] = [entry.lsn] * (last - first)
        behind = last
    assert shown == plain[start:end]


@given(seed=st.integers(0, 2**32), count=st.integers(0, 3000), longest=st.sampled_from([1, 3, 50, SECTORS]))
def test_the_map_shows_the_last_entry_of_each_sector(seed: int, count: int, longest: int) -> None:
    draw = random.Random(seed)
    extents, plain = ExtentMap(), [0] * SECTORS
    for lsn in range(1, count + 1):
        sectors = draw.randint(1, longest)
        start = draw.randint(0, SECTORS - sectors)
        extents.apply(Entry(lsn, 0, DATA, start, sectors, 0, 0, 1))
        plain[start : start + sectors] = [lsn] * sectors
    _agrees(extents, plain, 0, SECTORS)
    assert list(extents.between(7, 7)) == []
    start = draw.randrange(SECTORS)
    _agrees(extents, plain, start, draw.randint(start, SECTORS))
