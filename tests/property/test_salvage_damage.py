"""Damage: every changed byte and every lost page is found, and costs no more than the payload that lies in it.

The stores are the small ones of tests/format/stores.py, stopped cleanly, so that nothing may be a torn tail.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cdp.salvage.check import check_volume
from cdp.salvage.report import Report
from tests.format.stores import Modelled, branched_volume, restored, small_volume
from tests.format.writer_segment import DATA, PAGE, SECTOR

# Every byte of the small files; of segments and checkpoints, each so-many-th, so that all offsets within a field come up.
STRIDE = 31


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]


def _sweep(tmp_path: Path, made: Modelled, stride: int, phase: int = 0) -> None:
    folder = made.volume.save(tmp_path)
    for name, raw in made.volume.files.items():
        content = bytes(raw)
        large = len(content) >= PAGE
        for at in range(phase if large else 0, len(content), stride if large else 1):
            (folder / name).write_bytes(_flipped(content, at))
            assert check_volume(folder).damaged, f"{name} at {at}"
        (folder / name).write_bytes(content)
    assert not check_volume(folder).damaged


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    _sweep(tmp_path, small_volume(), STRIDE)


def test_a_changed_byte_is_found_in_a_history_that_branches(tmp_path: Path) -> None:
    _sweep(tmp_path, branched_volume(), 8 * STRIDE + 1)


@pytest.mark.long
@pytest.mark.parametrize("make", [small_volume, branched_volume])
@pytest.mark.parametrize("phase", range(16))
def test_any_changed_byte_is_found(tmp_path: Path, phase: int, make: Callable[[], Modelled]) -> None:
    _sweep(tmp_path, make(), 16, phase)


def _payload_sectors_in(made: Modelled, name: str, page: int) -> dict[int, set[int]]:
    """By LSN, the sectors of the payloads of which a byte lies in the page."""
    found: dict[int, set[int]] = {}
    for segment in made.volume.segments:
        if name != f"segment-{segment.id:08x}":
            continue
        for entry in segment.entries(made.volume.last_lsn):
            if entry.kind == DATA and entry.offset < (page + 1) * PAGE and entry.offset + entry.stored > page * PAGE:
                found.setdefault(entry.lsn, set()).update(range(entry.start, entry.start + entry.sectors))
    return found


def _lost_at(made: Modelled, lost: dict[int, set[int]], lsn: int) -> set[int]:
    """The lost sectors that the state at `lsn` shows: those whose content no later record covers."""
    shown: dict[int, int] = {}
    for segment in made.volume.segments:
        for entry in segment.entries(lsn):
            shown.update(dict.fromkeys(range(entry.start, entry.start + entry.sectors), entry.lsn))
    return {sector for sector, of_lsn in shown.items() if sector in lost.get(of_lsn, ())}


def test_a_lost_page_costs_only_the_payloads_in_it(tmp_path: Path) -> None:
    made = small_volume()
    folder = made.volume.save(tmp_path / "store")
    for name, raw in made.volume.files.items():
        content = bytes(raw)
        for page in range(-(-len(content) // PAGE)):
            zeroed = content[: page * PAGE] + bytes(len(content[page * PAGE :][:PAGE])) + content[(page + 1) * PAGE :]
            (folder / name).write_bytes(zeroed)
            report = check_volume(folder)
            assert report.damaged, f"{name}, page {page}"
            _assert_only_lost(made, report, _payload_sectors_in(made, name, page), tmp_path)
        (folder / name).write_bytes(content)


def _assert_only_lost(made: Modelled, report: Report, lost: dict[int, set[int]], tmp_path: Path) -> None:
    named = {f.lsn for f in report.findings if f.start is not None}
    assert named == set(lost), report.findings
    for lsn, state in made.states.items():
        gone = _lost_at(made, lost, lsn)
        wanted = bytearray(state)
        for sector in gone:
            wanted[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
        store, out = tmp_path / "store", tmp_path / "out"
        assert restored(store, out, f"lsn:{lsn}") == (7 if gone else state)
        assert restored(store, out, f"lsn:{lsn}", "--allow-damage") == bytes(wanted)
