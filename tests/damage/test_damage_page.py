"""Any lost page of any file of a store that was stopped cleanly: what stood there twice is still there, the rest is named.

A page of zeros that is lost has lost nothing.
"""

from __future__ import annotations

import random

import pytest

from cdp import _native
from tests.damage.anatomy import DATA, PAGE, Entry
from tests.damage.history import History, assert_reads, checked
from tests.damage.test_damage_flip import assert_checked, assert_found


def _zero(history: History, name: str, page: int) -> None:
    content = bytearray(history.files[name])
    end = min(len(content), (page + 1) * PAGE)
    content[page * PAGE : end] = bytes(end - page * PAGE)
    (history.folder / name).write_bytes(content)


def _changed_payloads(history: History, name: str, page: int) -> set[Entry]:
    """Data entries of which a byte in the page was not zero."""
    if name not in history.segments:
        return set()
    content = history.files[name]
    start, end = page * PAGE, (page + 1) * PAGE
    return {
        part.entry
        for part in history.segments[name].payloads(start, end)
        if part.entry is not None
        and part.entry.kind == DATA
        and any(content[max(start, part.start) : min(end, part.end)])
    }


def _pages(history: History) -> list[tuple[str, int]]:
    """Those that hold anything."""
    pages = [(name, page) for name, raw in history.files.items() for page in range(-(-len(raw) // PAGE))]
    return [(name, page) for name, page in pages if any(history.files[name][page * PAGE : (page + 1) * PAGE])]


def test_a_lost_page_costs_the_payloads_in_it(history: History, rng: random.Random) -> None:
    for name, page in _pages(history):
        _zero(history, name, page)
        damaged = _changed_payloads(history, name, page)
        assert_found(history, name, f"page {page}", damaged)
        assert_checked(history, name, f"page {page}", damaged)
        near = {lsn for entry in damaged for lsn in (entry.lsn - 1, entry.lsn)}
        near = set(rng.sample(sorted(near), min(len(near), 6))) | set(rng.sample(sorted(history.states), 3))
        assert_reads(history, sorted(near), damaged)
        history.put_back(name)


@pytest.mark.parametrize("reopened", [1, 2])
def test_a_writer_makes_no_lost_page_worse(history: History, rng: random.Random, reopened: int) -> None:
    """Opening for writing and closing, as a daemon does, neither hides damage to payloads nor adds any."""
    for name, page in rng.sample(_pages(history), 16):
        _zero(history, name, page)
        damaged = _changed_payloads(history, name, page)
        for _ in range(reopened):
            _native.Volume.open(str(history.folder)).close()
        lsns = rng.sample(sorted(history.states), 4)
        assert_reads(history, lsns, damaged)
        extents = {(f.lsn, f.start, f.sectors) for f in checked(history) if f.start is not None}
        assert extents == {(e.lsn, e.start, e.sectors) for e in damaged}
        for other in history.files:
            history.put_back(other)
