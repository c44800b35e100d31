"""Stores that are damaged, foreign, of a later version, or in the middle of something: what is said, and what still reads."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cdp.salvage.check import check_volume
from cdp.salvage.files import SECTOR
from cdp.salvage.report import Finding
from cdp.salvage.volume import open_volume
from tests.format.stores import SECOND, Modelled, restored, salvage, small_volume
from tests.format.writer import EPOCH_GAP, VolumeWriter
from tests.format.writer_segment import PAGE, Record, control, crc, data, zero


def _damage(folder: Path) -> list[Finding]:
    return [finding for finding in check_volume(folder).findings if finding.severity == "damage"]


def _notes(folder: Path) -> list[Finding]:
    report = check_volume(folder)
    assert not report.damaged, report.findings
    return report.findings


def _reads_as_the_model(store: Path, made: Modelled, out: Path) -> None:
    for lsn, state in made.states.items():
        assert restored(store, out, f"lsn:{lsn}") == state


def test_list_tells_sizes_instants_bookmarks_and_deletion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = small_volume()
    made.volume.deleted = made.volume.created + 99 * SECOND
    made.volume.describe(2)
    made.volume.save(tmp_path)
    (tmp_path / "volumes" / ".trash-00112233445566778899aabbccddeeff").mkdir()
    assert salvage(tmp_path, "list", "--json") == 0
    (facts,) = json.loads(capsys.readouterr().out)["volumes"]
    assert (facts["name"], facts["id"], facts["size"]) == ("disk", made.volume.id, 64 * SECTOR)
    assert facts["oldest"] == {"lsn": 0, "stamp": made.volume.created, "time": "2023-11-14T22:13:20.000000000Z"}
    assert facts["latest"]["lsn"] == 7
    assert facts["bookmarks"] == {"before": 2}
    assert facts["deleted"] == "2023-11-14T22:14:59.000000000Z"
    assert facts["findings"] == []


def test_the_newest_bookmark_of_a_name_counts_until_it_is_removed(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter())
    at = made.volume.created
    steps: list[dict[str, object]] = [
        {"type": "bookmark", "name": "a", "lsn": 0},
        {"type": "bookmark", "name": "b", "lsn": 1},
        {"type": "bookmark", "name": "a", "lsn": 2},
        {"type": "bookmark-removed", "name": "b"},
    ]
    for number, fields in enumerate(steps):
        made.append(Record(at + number, (control(**fields),)))
    assert open_volume(made.volume.save(tmp_path / "store")).history.bookmarks() == {"a": 2}
    assert restored(tmp_path / "store", tmp_path / "out", "bookmark:b") == 3
    assert restored(tmp_path / "store", tmp_path / "out", "bookmark:a") == made.states[2]


def test_restore_by_bookmark_time_and_edge(tmp_path: Path) -> None:
    made = small_volume()
    store, out = tmp_path / "store", tmp_path / "out"
    made.volume.save(store)
    assert restored(store, out, "bookmark:before") == made.states[2]
    assert restored(store, out, "oldest") == made.states[0]
    assert restored(store, out, "latest") == made.states[7]
    assert restored(store, out, "2023-11-14T22:13:21.999999999Z") == made.states[1]
    assert restored(store, out, "-1s") == made.states[7]
    for refused, code in (("lsn:8", 2), ("2023-11-14T22:13:19Z", 2), ("2999-01-01T00:00:00Z", 2), ("bookmark:x", 3)):
        assert restored(store, out, refused) == code


def test_a_view_has_the_size_of_its_instant(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter(size=4 * SECTOR))
    at = made.volume.created
    made.append(Record(at, (data(3, b"x" * SECTOR),)), Record(at + 1, (control(type="resize", size=6 * SECTOR),)))
    made.volume.save(tmp_path / "store")
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:1") == bytes(3 * SECTOR) + b"x" * SECTOR
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:2") == bytes(3 * SECTOR) + b"x" * SECTOR + bytes(
        2 * SECTOR
    )


def test_a_time_that_two_clock_epochs_hold_tells_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Modelled(VolumeWriter())
    at = made.volume.created
    for number, seconds in enumerate((10, 20, 5, 30)):
        if number == 2:
            made.volume.set_clock_back()
        made.append(Record(at + seconds * SECOND, (zero(number, 1),)))
    made.volume.save(tmp_path / "store")
    words = ("restore", "disk", "--to", str(tmp_path / "out"), "--force", "--json")
    for seconds, lsn, other in ((4, 0, None), (5, 3, 0), (12, 3, 1), (20, 3, 2), (21, 3, None), (30, 4, None)):
        assert salvage(tmp_path / "store", *words, "--at", f"@{1_700_000_000 + seconds}") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["at"]["lsn"], told["other_lsn"]) == (lsn, other), seconds


def test_nothing_in_the_store_changes(tmp_path: Path) -> None:
    made = small_volume()
    store = tmp_path / "store"
    folder = made.volume.save(store)
    (folder / "manifest.0.tmp").write_bytes(b"half")

    def picture() -> list[tuple[str, int, int, int, bytes]]:
        return [
            (
                str(p),
                p.stat().st_mtime_ns,
                p.stat().st_ctime_ns,
                p.stat().st_atime_ns,
                p.read_bytes() if p.is_file() else b"",
            )
            for p in sorted(store.rglob("*"))
        ]

    picture()
    before = picture()
    assert salvage(store, "list") == salvage(store, "check", "disk") == 0
    assert restored(store, tmp_path / "out", "latest") == made.states[7]
    assert restored(store, store / "out", "latest") == 2
    after = picture()
    assert [row[:3] for row in before] == [row[:3] for row in after]
    assert [row[4] for row in before] == [row[4] for row in after]


def test_files_that_the_manifest_does_not_name_are_told(tmp_path: Path) -> None:
    folder = small_volume().volume.save(tmp_path)
    for name in ("segment-000000ff", "checkpoint-000000ff", "manifest.1.tmp", "notes.txt"):
        (folder / name).write_bytes(b"")
    assert {finding.file for finding in _notes(folder)} == {
        "segment-000000ff", "checkpoint-000000ff", "manifest.1.tmp", "notes.txt",
    }  # fmt: skip


def test_a_volume_one_generation_behind_is_what_a_crash_leaves(tmp_path: Path) -> None:
    made = small_volume()
    made.volume.name = "renamed"
    made.volume.describe(2, copies=(0,))
    (note,) = _notes(made.volume.save(tmp_path))
    assert note.file == "volume.1"
    assert open_volume(tmp_path / "volumes" / made.volume.id).description.name == "renamed"
    made.volume.describe(3, copies=(0,))
    assert [finding.file for finding in _damage(made.volume.save(tmp_path))] == ["volume.1"]


def test_a_manifest_behind_or_torn_is_what_a_crash_leaves(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter())
    made.append(Record(made.volume.created, (zero(0, 1),)))
    made.volume.frame(2, copies=(0,))
    made.volume.files["manifest.1"] += b"CDPF torn"
    (note,) = _notes(made.volume.save(tmp_path))
    assert note.file == "manifest.1"
    made.volume.frame(2, copies=(0,))
    assert [finding.file for finding in _damage(made.volume.save(tmp_path))] == ["manifest.1"]


def test_after_a_clean_stop_manifests_that_differ_are_damage(tmp_path: Path) -> None:
    made = small_volume()
    made.volume.files["manifest.1"] += b"CDPF torn"
    assert [finding.file for finding in _damage(made.volume.save(tmp_path))] == ["manifest.1"]


def test_both_manifests_lost_segments_are_listed_from_their_headers(tmp_path: Path) -> None:
    made = small_volume()
    made.append(Record(made.volume.last_stamp, (zero(0, 9),)))
    del made.volume.files["manifest.0"]
    made.volume.files["manifest.1"][:] = b"nothing"
    folder = made.volume.save(tmp_path / "store")
    assert any("rebuilt from their headers" in finding.text for finding in _damage(folder))
    made.forget_after(7)
    _reads_as_the_model(tmp_path / "store", made, tmp_path / "out")


def test_both_descriptions_lost_is_corrupt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = small_volume()
    made.volume.files["volume.0"][5] ^= 1
    made.volume.files["volume.1"][:] = b""
    made.volume.save(tmp_path)
    assert salvage(tmp_path, "check", made.volume.id) == 7
    assert salvage(tmp_path, "list") == 7
    assert "neither volume.0 nor volume.1 is valid" in capsys.readouterr().err


def test_a_later_version_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, end in (("segment-00000002", PAGE), ("manifest.1", 64)):
        made = small_volume()
        header = made.volume.files[name]
        header[8] = 3
        made.volume.save(tmp_path)
        assert salvage(tmp_path, "check", "disk") == 7, "not believed while the checksum is wrong"
        header[12:16] = struct.pack("<I", crc(bytes(header[:12]), bytes(header[16:end])))
        made.volume.save(tmp_path)
        assert salvage(tmp_path, "check", "disk") == 2
        assert f"{name}: format version 3; this reader knows 2" in capsys.readouterr().err
    line = json.dumps({"format": 2}).encode()
    made.volume.files["volume.1"][:] = line + b"\nsha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n"
    made.volume.save(tmp_path)
    assert salvage(tmp_path, "check", made.volume.id) == 2
    assert "volume.1: format 2; this reader knows 1" in capsys.readouterr().err


def test_a_foreign_segment_counts_as_missing(tmp_path: Path) -> None:
    made = small_volume()
    other = VolumeWriter(id="f" * 32)
    made.volume.files["segment-00000001"][:] = other.active.data
    found = _damage(made.volume.save(tmp_path / "store"))
    assert f"a foreign file: number 1 of volume {'f' * 32}" in [finding.text for finding in found]
    (lost,) = [finding for finding in found if "are lost" in finding.text]
    assert (lost.file, lost.lsn) == ("segment-00000001", 1)
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == 7
    partly = restored(tmp_path / "store", tmp_path / "out", "latest", "--allow-damage")
    assert isinstance(partly, bytes)
    assert partly[12 * SECTOR : 13 * SECTOR] == made.states[7][12 * SECTOR : 13 * SECTOR]


@pytest.mark.parametrize("length", [0, 100, PAGE, 3 * PAGE])
def test_a_truncated_segment_reads_as_far_as_it_goes(tmp_path: Path, length: int) -> None:
    made = small_volume()
    del made.volume.files["segment-00000002"][length:]
    assert _damage(made.volume.save(tmp_path / "store"))
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:6") == made.states[6]


def test_a_batch_of_which_only_zeros_are_missing_is_whole(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter(size=64 * SECTOR))
    made.append(Record(made.volume.created + 1, (zero(0, 1),)))
    whole = bytes(made.volume.active.data).rstrip(b"\0")
    assert PAGE + 64 < len(whole) < PAGE + 84, "its entry ends with zeros"
    del made.volume.active.data[len(whole) :]
    assert not _damage(made.volume.save(tmp_path / "store"))
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:1") == made.states[1]


def test_damage_below_the_durable_lsn_of_an_open_segment_is_no_torn_tail(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter(size=64 * SECTOR))
    at = made.volume.created
    made.append(Record(at + 1, (data(0, os.urandom(SECTOR)), data(9, os.urandom(SECTOR)))), sync=True)
    made.append(Record(at + 2, (data(5, os.urandom(SECTOR)),)), fresh=True)
    made.volume.idle()
    broken = made.volume.active.batches[0].entries[1]
    made.volume.active.data[broken.offset + 9] ^= 1
    (found,) = _damage(made.volume.save(tmp_path / "store"))
    assert (found.file, found.segment, found.lsn, found.start, found.sectors) == ("segment-00000001", 1, 1, 9, 1)
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == 7
    state = made.states[2]
    wanted = state[: 9 * SECTOR] + bytes(SECTOR) + state[10 * SECTOR :]
    assert restored(tmp_path / "store", tmp_path / "out", "latest", "--allow-damage") == wanted


def test_a_durable_record_without_a_copy_makes_all_unreadable_until_covered(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter(size=8 * SECTOR))
    at = made.volume.created
    made.append(Record(at + 1, (data(0, b"1" * SECTOR),)), sync=True)
    made.append(Record(at + 2, (data(1, b"2" * SECTOR),)), sync=True, fresh=True)
    made.append(Record(at + 3, (data(2, b"3" * SECTOR),)), sync=True, fresh=True)
    made.append(Record(at + 4, (data(3, b"4" * SECTOR),)), sync=True, fresh=True)
    made.volume.idle()
    second, third = made.volume.active.batches[1:3]
    made.volume.active.data[second.offset + 4] ^= 1
    made.volume.active.data[third.offset + 84] ^= 1  # the echo of the second, in the third
    folder = made.volume.save(tmp_path / "store")
    (lost,) = [finding for finding in _damage(folder) if "are lost" in finding.text]
    assert lost.lsn == 2
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:1") == made.states[1]
    partly = restored(tmp_path / "store", tmp_path / "out", "latest", "--allow-damage")
    assert partly == bytes(2 * SECTOR) + b"3" * SECTOR + b"4" * SECTOR + bytes(4 * SECTOR)


def test_an_echo_counts_whose_own_batch_is_known_by_an_echo_only(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter(size=8 * SECTOR))
    for number in range(3):
        record = Record(made.volume.created + number, (data(number, bytes([65 + number]) * SECTOR),))
        made.append(record, sync=True, fresh=True)
    for batch in made.volume.active.batches[:2]:
        made.volume.active.data[batch.offset + 8] ^= 1
    found = _damage(made.volume.save(tmp_path / "store"))
    assert sum("stands in" in finding.text for finding in found) == 2
    _reads_as_the_model(tmp_path / "store", made, tmp_path / "out")


def test_the_footer_stands_in_where_a_directory_and_its_echo_are_lost(tmp_path: Path) -> None:
    made = small_volume()
    first, second = made.volume.segments[0].batches[:2]
    echo = second.offset + len(second.copied)
    for at in (first.offset + 4, echo + 4):
        made.volume.segments[0].data[at] ^= 1
    found = _damage(made.volume.save(tmp_path / "store"))
    assert any("the footer stands in" in finding.text for finding in found)
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:2") == made.states[2]
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == made.states[7]
    assert restored(tmp_path / "store", tmp_path / "out", "bookmark:before") == made.states[2]


def test_a_missing_record_above_the_durable_lsn_cuts_the_tail(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter(size=8 * SECTOR))
    at = made.volume.created
    made.append(Record(at + 1, (data(0, b"1" * SECTOR),)), sync=True)
    made.append(Record(at + 2, (data(1, b"2" * SECTOR),)), Record(at + 3, (data(2, b"3" * SECTOR),)), fresh=True)
    made.append(Record(at + 4, (data(3, b"4" * SECTOR),)), fresh=True)
    broken = made.volume.active.batches[1].entries[1]
    made.volume.active.data[broken.offset + 9] ^= 1
    (note,) = _notes(made.volume.save(tmp_path / "store"))
    assert (note.lsn, note.segment) == (3, 1)
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == made.states[2]
    assert restored(tmp_path / "store", tmp_path / "out", "lsn:3") == 2
    made.forget_after(2)
    made.volume.crash_and_recover(2)
    made.append(Record(at + 9, (data(3, b"5" * SECTOR),)))
    made.volume.stop()
    assert _notes(made.volume.save(tmp_path / "store")) == []
    assert list(made.states) == [0, 1, 2, 5 + EPOCH_GAP]
    _reads_as_the_model(tmp_path / "store", made, tmp_path / "out")


def test_a_reused_file_shows_nothing_of_its_earlier_use(tmp_path: Path) -> None:
    made = Modelled(VolumeWriter(size=8 * SECTOR))
    made.append(Record(made.volume.created, (data(0, b"1" * SECTOR),)), sync=True)
    stale = VolumeWriter(size=8 * SECTOR)
    stale.active.nonce += 1
    for lsn in range(1, 9):
        stale.append([Record(stale.created, (data(1, os.urandom(SECTOR)),))], fresh=lsn > 1)
    active = made.volume.active
    active.data += stale.active.data[len(active.data) :]
    assert _notes(made.volume.save(tmp_path / "store")) == []
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == made.states[1]


def _with_origin(tmp_path: Path, kind: str = "file") -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(b"o" * 3 * SECTOR)
    made = Modelled(VolumeWriter(size=8 * SECTOR))
    made.volume.origin = {
        "kind": kind, "path": str(path), "size": 3 * SECTOR, "identity": "x", "changed": path.stat().st_mtime_ns,
    }  # fmt: skip
    made.volume.describe(1)
    made.append(Record(made.volume.created, (zero(1, 1), data(4, b"d" * SECTOR))))
    made.volume.save(tmp_path / "store")
    return path


def test_sectors_that_no_record_covers_read_from_the_origin(tmp_path: Path) -> None:
    path = _with_origin(tmp_path)
    store, out = tmp_path / "store", tmp_path / "out"
    latest = b"o" * SECTOR + bytes(SECTOR) + b"o" * SECTOR + bytes(SECTOR) + b"d" * SECTOR + bytes(3 * SECTOR)
    assert restored(store, out, "latest") == latest
    assert restored(store, out, "oldest") == b"o" * 3 * SECTOR + bytes(5 * SECTOR)
    moved = path.rename(tmp_path / "moved.img")
    assert restored(store, out, "latest") == 3
    assert restored(store, out, "latest", "--origin", str(moved)) == latest
    path.write_bytes(b"changed")
    assert restored(store, out, "latest") == 2


def test_an_origin_behind_nbd_must_be_given_as_a_file(tmp_path: Path) -> None:
    path = _with_origin(tmp_path, "nbd")
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == 2
    assert isinstance(restored(tmp_path / "store", tmp_path / "out", "latest", "--origin", str(path)), bytes)


def test_a_large_volume_restores_to_a_sparse_file(tmp_path: Path) -> None:
    size = 1 << 40
    volume = VolumeWriter(size=size)
    volume.append([Record(volume.created, (data(size // SECTOR - 1, b"e" * SECTOR), zero(0, 1 << 30)))])
    volume.save(tmp_path / "store")
    out = tmp_path / "out"
    assert salvage(tmp_path / "store", "restore", "disk", "--at", "latest", "--to", str(out)) == 0
    status = out.stat()
    assert status.st_size == size
    assert status.st_blocks * 512 < 1 << 20
    with out.open("rb") as file:
        file.seek(size - SECTOR)
        assert file.read() == b"e" * SECTOR


def test_a_failed_restore_leaves_what_was_there(tmp_path: Path) -> None:
    made = small_volume()
    made.volume.files["segment-00000001"][PAGE + 64 + 60 + 100] ^= 1
    made.volume.save(tmp_path / "store")
    out = tmp_path / "there" / "out"
    out.parent.mkdir()
    out.write_bytes(b"precious")
    assert restored(tmp_path / "store", out, "lsn:1") == 7
    assert out.read_bytes() == b"precious"
    assert os.listdir(out.parent) == ["out"]


def test_a_name_means_the_volume_that_is_not_deleted(tmp_path: Path) -> None:
    gone, alive = VolumeWriter(id="a" * 32), VolumeWriter(id="b" * 32, size=SECTOR)
    gone.deleted = 1
    gone.describe(1)
    gone.save(tmp_path / "store")
    alive.save(tmp_path / "store")
    assert restored(tmp_path / "store", tmp_path / "out", "latest") == bytes(SECTOR)
    assert salvage(tmp_path / "store", "check", "nobody") == 3
    assert salvage(tmp_path / "nowhere", "list") == 3


def test_checkpoint_that_shows_another_map_is_damage(tmp_path: Path) -> None:
    made = small_volume()
    made.volume.checkpoint([(0, 1, 1, 0)], 7)
    made.volume.files["manifest.1"] = made.volume.files["manifest.0"]
    found = _damage(made.volume.save(tmp_path))
    assert [finding.file for finding in found] == ["checkpoint-00000002"]


def test_the_header_crc_is_castagnoli() -> None:
    assert crc(b"123456789") == 0xE3069283
    assert struct.pack("<I", crc(b"")) == bytes(4)


def test_the_reader_loads_nothing_native_of_ours(tmp_path: Path) -> None:
    small_volume().volume.save(tmp_path)
    code = (
        "import sys; from cdp.salvage.__main__ import main; code = main(['list', '--store', sys.argv[1]]); "
        "ours = {name for name in sys.modules if name.startswith('cdp') and not name.startswith('cdp.salvage')}; "
        "assert ours == {'cdp', 'cdp.errors'}, ours; sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    volume = VolumeWriter()
    volume.append([Record(volume.created, (data(0, b"e" * SECTOR),))])
    volume.save(tmp_path / "store")
    out = tmp_path / "out"
    out.write_bytes(b"mine")
    words = ("restore", "disk", "--at", "latest", "--to", str(out))
    assert salvage(tmp_path / "store", *words) == 2
    assert out.read_bytes() == b"mine"
    assert salvage(tmp_path / "store", *words, "--force") == 0
    assert out.read_bytes().startswith(b"eee")
