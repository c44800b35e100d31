"""Histories that branch and are thinned, in the reference reader: what can be reached, what is refused, what is damage."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cdp.salvage import volume as volume_module
from cdp.salvage.check import check_volume
from cdp.salvage.manifest import read_manifest
from cdp.salvage.report import Finding
from cdp.salvage.volume import open_volume
from tests.format.stores import SECOND, Branching, branched_volume, extents_at, restored, salvage
from tests.format.writer_history import HistoryWriter
from tests.format.writer_segment import SECTOR, Record, control, data, rollback, zero


def _damage(folder: Path) -> list[Finding]:
    return [finding for finding in check_volume(folder).findings if finding.severity == "damage"]


def _records(made: Branching, *contents: bytes) -> None:
    """One record of a sector each, a second apart, from sector 0 on."""
    for number, content in enumerate(contents):
        stamp = max(made.volume.last_stamp, made.volume.created) + SECOND
        made.append(Record(stamp, (data(number, content * SECTOR),)), sync=True)


def _volume() -> Branching:
    return Branching(HistoryWriter(size=8 * SECTOR))


def test_a_branched_volume_is_clean_and_reads_as_the_model(tmp_path: Path) -> None:
    made = branched_volume()
    assert check_volume(made.volume.save(tmp_path / "store")).findings == []
    for lsn in range(15):
        assert restored(tmp_path / "store", tmp_path / "out", f"lsn:{lsn}") == made.states.get(lsn, 2), lsn


def test_what_is_not_kept_is_refused_with_the_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    branched_volume().volume.save(tmp_path / "store")
    words = ("restore", "disk", "--to", str(tmp_path / "out"), "--force")
    for at in ("lsn:3", "lsn:0", "2023-11-14T22:13:20Z"):
        assert salvage(tmp_path / "store", *words, "--at", at) == 2
        told = capsys.readouterr().err
        assert "reachable: LSN 10 (2023-11-14T22:14:26" in told
        assert "and 2 points below, the oldest LSN 2 (2023-11-14T22:13:22" in told


def test_a_time_below_the_horizon_names_the_newest_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = branched_volume()
    made.volume.save(tmp_path / "store")
    words = ("restore", "disk", "--to", str(tmp_path / "out"), "--force", "--json")
    for seconds, lsn in ((2, 2), (24, 2), (61, 5), (65, 5), (66, 10), (67, 11), (90, 13)):
        assert salvage(tmp_path / "store", *words, "--at", f"@{made.volume.created // SECOND + seconds}") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["at"]["lsn"], told["kept_point"]) == (lsn, lsn < 10), seconds
        assert (tmp_path / "out").read_bytes() == made.states[lsn]


def test_list_and_check_tell_horizon_points_and_parent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = branched_volume()
    made.clone(12, "child", "c" * 32).volume.save(tmp_path)
    assert salvage(tmp_path, "check", "child", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["horizon"]["lsn"], facts["points"], facts["rollbacks"]) == (12, [], 2)
    (parent,) = facts["ancestors"]
    assert (parent["volume"], parent["base_lsn"]) == (made.volume.id, 12)
    made.volume.save(tmp_path)
    assert salvage(tmp_path, "list", "disk") == 0
    told = capsys.readouterr().out
    assert "horizon: 2023-11-14T22:14:26.000000000Z (LSN 10)" in told
    assert "point 2023-11-14T22:13:22.000000000Z (LSN 2)" in told
    assert salvage(tmp_path, "list", "child") == 0
    assert f"cloned from volume {made.volume.id} at LSN 12" in capsys.readouterr().out


def test_a_rollback_brings_back_the_size_and_leaves_the_bookmarks(tmp_path: Path) -> None:
    made = _volume()
    at = made.volume.created
    made.append(
        Record(at + 1, (control(type="resize", size=4 * SECTOR),)),
        Record(at + 2, (control(type="bookmark", name="small", lsn=1),)),
        Record(at + 3, (rollback(0),)),
    )
    volume = open_volume(made.volume.save(tmp_path))
    assert [volume.history.size_at(lsn) // SECTOR for lsn in range(4)] == [8, 4, 4, 8]
    assert volume.history.bookmarks() == {"small": 1}


def test_a_clone_knows_nothing_of_what_its_parent_did_later(tmp_path: Path) -> None:
    made = _volume()
    _records(made, b"1", b"2", b"3")
    stamp = made.volume.last_stamp
    made.append(Record(stamp + 1, (rollback(1),)), Record(stamp + 2, (control(type="bookmark", name="p", lsn=1),)))
    made.volume.seal()
    child = made.clone(2, "child", "c" * 32)
    _records(child, b"a", b"b", b"c")
    child.append(Record(child.volume.last_stamp + 1, (rollback(2),)))
    folder = child.volume.save(tmp_path / "store")
    assert check_volume(folder).findings == []
    volume = open_volume(folder)
    assert (volume.history.bookmarks(), volume.history.rollbacks) == ({}, [(child.volume.last_lsn, 2)])
    for lsn in range(child.volume.next_lsn):
        assert restored(tmp_path / "store", tmp_path / "out", f"lsn:{lsn}", name="child") == child.states.get(lsn, 2)


@pytest.mark.parametrize("stop", [True, False])
def test_a_segment_that_was_dropped_is_missing_above_the_horizon_only(tmp_path: Path, stop: bool) -> None:
    for horizon in (3, 1):
        made = _volume()
        _records(made, b"1", b"2")
        made.volume.seal()
        made.append(Record(made.volume.last_stamp + 1, (zero(0, 8),)), sync=True)
        made.volume.seal()
        _records(made, b"4")
        made.retain(horizon)
        made.history.drop(1)
        if stop:
            made.volume.stop()
        damage = _damage(made.volume.save(tmp_path / "store"))
        assert [finding.lsn for finding in damage] == ([] if horizon == 3 else [2])
        assert restored(tmp_path / "store", tmp_path / "out", "latest") == made.states[4]


def _compacted(records_a_batch: int = 1) -> Branching:
    made = _volume()
    _records(made, b"1", b"2", b"3", b"4")
    made.append(Record(made.volume.last_stamp + 1, (rollback(2),)))
    made.volume.seal()
    _records(made, b"5")
    made.retain(5, 3)
    made.history.compact([1], records_a_batch=records_a_batch)
    made.volume.stop()
    return made


def test_the_footer_stands_in_for_a_lost_batch_of_a_compacted_segment(tmp_path: Path) -> None:
    for lost in range(3):
        made = _compacted()
        segment = made.volume.compacted[0]
        segment.data[segment.batch_offsets[lost] + 70] ^= 1
        folder = made.volume.save(tmp_path / "store")
        assert any("the footer stands in" in finding.text for finding in _damage(folder)), lost
        for lsn, state in made.states.items():
            assert restored(tmp_path / "store", tmp_path / "out", f"lsn:{lsn}") == state, (lost, lsn)


def test_a_lost_rollback_is_known_by_the_footer(tmp_path: Path) -> None:
    made = _compacted()
    segment = made.volume.compacted[0]
    segment.data[segment.batch_offsets[-1] + 70] ^= 1  # the rollback and the activity
    folder = made.volume.save(tmp_path / "store")
    assert open_volume(folder).history.rollbacks == [(5, 2)]
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:5") == made.states[5]


def test_damage_travels_as_damage(tmp_path: Path) -> None:
    made = _volume()
    _records(made, b"1", b"2", b"3")
    made.volume.seal()
    made.volume.checkpoint(extents_at(made.volume, 3), 3)
    made.history.run(1, 1, 3)
    made.retain(3)
    made.history.compact([1], damaged=frozenset([(2, 1)]))
    made.volume.stop()
    assert _damage(made.volume.save(tmp_path / "store")) == []
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == 7
    wanted = made.states[3][:SECTOR] + bytes(SECTOR) + made.states[3][2 * SECTOR :]
    assert restored(tmp_path / "store", tmp_path / "out", "latest", "--allow-damage") == wanted


def test_a_run_is_compared_with_the_segments(tmp_path: Path) -> None:
    made = _volume()
    _records(made, b"1", b"2")
    made.volume.seal()
    _records(made, b"3")
    made.volume.seal()
    made.history.run(1, 1, 2)
    all_entries = made.history.entries(3)
    foreign = (1, replace(all_entries[1][1], start=5))
    for wrong, text in (
        (all_entries[:1], "it lacks data 1..2"),
        (all_entries[:3], "no segment has its data 0..1"),
        ([*all_entries[:2], foreign], "no segment has its data 5..6"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(made.history, "entries", lambda _lsn, part=wrong: part)
            made.history.run(1, 1, 2)
        (finding,) = _damage(made.volume.save(tmp_path / "store"))
        assert text in finding.text
        made.history.drop_run(made.volume._runs)
    assert _damage(made.volume.save(tmp_path / "store")) == []


def test_a_place_is_a_hint_only_where_its_segment_is_gone(tmp_path: Path) -> None:
    made = _volume()
    _records(made, b"1", b"2", b"1")
    made.volume.seal()
    extents = extents_at(made.volume, 3)
    made.volume.checkpoint([(start, sectors, lsn, entry) for start, sectors, lsn, entry in extents if lsn != 2], 3)
    assert [finding.file for finding in _damage(made.volume.save(tmp_path / "store"))] == ["checkpoint-00000001"]


def test_both_manifests_lost_compaction_is_told_from_the_headers(tmp_path: Path) -> None:
    made = _compacted()
    del made.volume.files["manifest.0"], made.volume.files["manifest.1"]
    made.volume.save(tmp_path / "store")
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == made.states[6]
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:4") == 2


def test_a_file_that_vanishes_while_a_writer_compacts_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer switches the manifest and removes the segments between the reader's look at the manifest and its opening."""
    made = _volume()
    _records(made, b"1", b"2")
    made.volume.seal()
    _records(made, b"3")
    made.retain(2)
    folder = made.volume.save(tmp_path / "store")
    read = read_manifest
    looks = 0

    def read_then_compact(*words: object) -> object:
        nonlocal looks
        found = read(*words)  # type: ignore[arg-type]
        looks += 1
        if looks == 1:
            made.history.compact([made.history.every_segment[0].id])
            made.volume.save(tmp_path / "store")
        return found

    monkeypatch.setattr(volume_module, "read_manifest", read_then_compact)
    with contextlib.closing(open_volume(folder)) as volume:
        assert not volume.report.damaged
        assert looks > 1
    looks = 0
    assert _damage(folder) == []
    looks = 0
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == made.states[3]


def test_a_rollback_to_what_lies_ahead_is_damage(tmp_path: Path) -> None:
    made = _volume()
    _records(made, b"1")
    made.states[9] = made.states[1]
    made.append(Record(made.volume.last_stamp + 1, (rollback(9),)))
    del made.states[9]
    (finding,) = _damage(made.volume.save(tmp_path / "store"))
    assert "a rollback to LSN 9" in finding.text
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == made.states[1]
