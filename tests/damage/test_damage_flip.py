"""Any changed byte of any file of a store that was stopped cleanly: found by both readers, named, and no dearer than the payload that it lies in.

Small files byte by byte; of segments the ends of every part and a few bytes inside each, of a checkpoint what stands where pages begin and end
(`long`: every byte). There is no byte without a meaning.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.damage.anatomy import PAGE, SECTOR, Entry
from tests.damage.history import History, assert_reads, checked, data_entries, verified

MANY = 8
"""Parts of one kind in a file of which every run looks at so many, picked by the seed, and the first and last."""


def _flip(history: History, name: str, at: int) -> None:
    content = bytearray(history.files[name])
    content[at] ^= 1 << at % 8
    (history.folder / name).write_bytes(content)


def _offsets(history: History, name: str, rng: random.Random) -> list[int]:
    """Both ends of parts of every kind, and a byte inside."""
    size = len(history.files[name])
    if size < PAGE:
        return list(range(size))
    if name not in history.segments:
        near = {at for page in range(0, size, PAGE) for at in range(page, page + 40)} | set(range(size - 120, size))
        return sorted(near | set(rng.sample(range(size), 150)))
    by_kind: dict[str, list[tuple[int, int]]] = {}
    for part in history.segments[name].parts:
        by_kind.setdefault(part.what, []).append((part.start, part.end))
    offsets = set()
    for parts in by_kind.values():
        for start, end in {parts[0], parts[-1], *rng.sample(parts, min(MANY, len(parts)))}:
            offsets |= {start, end - 1, rng.randrange(start, end)}
    return sorted(offsets)


def assert_found(history: History, name: str, at: str, damaged: set[Entry]) -> None:
    """`cdp verify` names the file and, for payloads, segment, LSN and extent."""
    found = verified(history)
    assert found, f"{name} {at}: not found"
    assert all(name in finding.file or name in finding.what for finding in found), f"{name} {at}: {found}"
    extents = {(f.segment, f.lsn, f.offset, f.length) for f in found if f.offset is not None}
    segment = int(name.removeprefix("segment-"), 16) if damaged else 0
    wanted = {(segment, e.lsn, e.start * SECTOR, e.sectors * SECTOR) for e in damaged}
    assert extents == wanted, f"{name} {at}: {found}"


def assert_checked(history: History, name: str, at: str, damaged: set[Entry]) -> None:
    """The reference reader's check does the same."""
    found = checked(history)
    assert found, f"{name} {at}: not found by the reference reader"
    assert name in {finding.file for finding in found}, f"{name} {at}: {found}"
    extents = {(f.lsn, f.start, f.sectors) for f in found if f.start is not None}
    assert extents == {(e.lsn, e.start, e.sectors) for e in damaged}, f"{name} {at}: {found}"


def _lsns(lsns: list[int], damaged: Iterable[Entry], rng: random.Random) -> list[int]:
    near = {lsn for entry in damaged for lsn in (entry.lsn - 1, entry.lsn)}
    return sorted(near | {rng.choice(lsns)})


def _sweep(history: History, name: str, offsets: Iterable[int], rng: random.Random, checks: float) -> None:
    lsns = sorted(history.states)
    for at in offsets:
        _flip(history, name, at)
        damaged = data_entries(history, name, at, at + 1)
        assert_found(history, name, f"at {at}", damaged)
        assert_reads(history, _lsns(lsns, damaged, rng), damaged)
        if rng.random() < checks:
            assert_checked(history, name, f"at {at}", damaged)
    history.put_back(name)


def test_a_changed_byte_is_found_and_costs_one_payload_at_most(history: History, rng: random.Random) -> None:
    # The first three differ in kind, the others are alike.
    alike = sorted(history.segments)[3:]
    for name in set(history.files) - set(rng.sample(alike, len(alike) - 1)):
        _sweep(history, name, _offsets(history, name, rng), rng, checks=0.2 if name in history.segments else 0.02)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("phase", range(8))
def test_any_changed_byte(history: History, rng: random.Random, phase: int) -> None:
    for name, content in history.files.items():
        _sweep(history, name, range(phase, len(content), 8), rng, checks=0.02)
