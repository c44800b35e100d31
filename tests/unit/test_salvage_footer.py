"""A footer whose checksums fit but which does not say what the batches say is damage, and the finding names the part."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp.salvage.check import check_volume
from tests.format import writer_segment
from tests.format.stores import small_volume
from tests.format.writer_segment import RunItem, SegmentWriter, run_blocks


def _findings(tmp_path: Path) -> list[str]:
    found = check_volume(small_volume().volume.save(tmp_path)).findings
    return [finding.text for finding in found if finding.file == "segment-00000001"]


@pytest.mark.parametrize(
    ("section", "owner", "name"),
    [
        ("STAT", writer_segment, "_stat"),
        ("CTRL", writer_segment, "controls_body"),
        ("STMP", SegmentWriter, "_stamps"),
        ("FLSH", SegmentWriter, "_flush_points"),
    ],
)
def test_a_section_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, owner: object, name: str
) -> None:
    monkeypatch.setattr(owner, name, lambda *_: b"")
    (finding,) = _findings(tmp_path)
    assert finding.startswith(f"footer: {section} is not what the batches say: 0 items where")


def test_an_entry_that_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_last(items: list[RunItem], nonce: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
        return run_blocks(items[:-1], nonce)

    monkeypatch.setattr(writer_segment, "run_blocks", without_the_last)
    assert any(text.startswith("footer: narrow entries: 4 stored, the batches say 5") for text in _findings(tmp_path))


def test_an_entry_that_points_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(items: list[RunItem], nonce: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
        return run_blocks([RunItem(i.start + 1, i.lsn, i.kind, i.sectors, 0, i.offset, i.stored) for i in items], nonce)

    monkeypatch.setattr(writer_segment, "run_blocks", moved)
    (finding,) = _findings(tmp_path)
    assert "narrow entries: number 0 is data 1..4 of LSN 1" in finding
    assert "the batches say data 0..3 of LSN 1" in finding
