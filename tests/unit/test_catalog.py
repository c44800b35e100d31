"""The catalog: names, two copies, deletion, and what a crash or a fault leaves."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp.catalog import Catalog, Damaged, Entry
from cdp.description import COPY_BYTES_MAX, SIZE_MAX, Description, Origin, decode, encode
from cdp.errors import Corrupt, Invalid, Io, NotFound

MIB = 1 << 20


def lay(folder: Path, description: Description) -> None:
    """In place of the native journal: a file that shows that it was laid."""
    (folder / "manifest.0").write_bytes(description.id.encode())


def make(catalog: Catalog, name: str, size: int = MIB) -> Entry:
    return catalog.create(Description(secrets.token_hex(16), name, size, 4096, 17), lay)


def names(catalog: Catalog) -> list[str]:
    return [entry.name for entry in catalog.entries() if isinstance(entry, Entry) and not entry.deleted]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "store")


def test_a_volume_has_two_equal_copies_of_the_format(catalog: Catalog) -> None:
    entry = make(catalog, "disk")
    first, second = ((entry.folder / name).read_bytes() for name in ("volume.0", "volume.1"))
    assert first == second
    line, checksum, end = first.split(b"\n")
    assert checksum == b"sha256:" + hashlib.sha256(line).hexdigest().encode()
    assert end == b""
    assert json.loads(line) == {
        "format": 1,
        "generation": 1,
        "id": entry.folder.name,
        "name": "disk",
        "size": MIB,
        "block_size": 4096,
        "created": 17,
        "deleted": None,
        "origin": None,
    }


def test_no_store(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="no store"):
        catalog.entries()


def test_a_folder_of_others_does_not_become_a_store(catalog: Catalog) -> None:
    catalog.store.mkdir()
    (catalog.store / "passwd").touch()
    with pytest.raises(Invalid, match="passwd"):
        make(catalog, "disk")
    assert contents(catalog.store) == {"passwd": b""}


@pytest.mark.parametrize("name", ["", ".x", "-x", "a/b", "a b", "a@b", "x" * 129, "ä", "a\n"])
def test_names_that_cannot_be(catalog: Catalog, name: str) -> None:
    with pytest.raises(Invalid):
        make(catalog, name)


@pytest.mark.parametrize("size", [0, 1, 511, 513, -512, SIZE_MAX + 512])
def test_sizes_that_cannot_be(catalog: Catalog, size: int) -> None:
    with pytest.raises(Invalid):
        make(catalog, "disk", size)


def test_names_are_unique(catalog: Catalog) -> None:
    make(catalog, "disk")
    other = make(catalog, "other")
    with pytest.raises(Invalid, match="already"):
        make(catalog, "disk")
    with pytest.raises(Invalid, match="already"):
        catalog.rename(other, "disk")
    assert names(catalog) == ["disk", "other"]
    assert len(list(catalog.volumes.iterdir())) == 2


def test_names_are_unique_when_many_create_at_once(catalog: Catalog) -> None:
    catalog.ensure_store()
    outcomes: list[str] = []

    def create() -> None:
        try:
            make(catalog, "disk")
            outcomes.append("made")
        except Invalid:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["refused"] * 7
    assert names(catalog) == ["disk"]


def test_rename_counts_a_generation(catalog: Catalog) -> None:
    entry = catalog.rename(make(catalog, "disk"), "new")
    assert (entry.name, entry.description.generation) == ("new", 2)
    assert catalog.find("new").id == entry.id
    with pytest.raises(NotFound):
        catalog.find("disk")
    assert catalog.rename(entry, "new").name == "new"


def test_delete_frees_the_name_and_undelete_wants_it_back(catalog: Catalog) -> None:
    first = make(catalog, "disk")
    catalog.delete(first, 99)
    with pytest.raises(NotFound, match="undelete"):
        catalog.find("disk")
    assert catalog.find("disk", deleted=True).description.deleted_stamp == 99
    second = make(catalog, "disk")
    with pytest.raises(Invalid, match="already"):
        catalog.undelete(catalog.find_deleted("disk"))
    catalog.rename(second, "disk2")
    catalog.undelete(catalog.find_deleted("disk"))
    assert catalog.find("disk").id == first.id
    with pytest.raises(NotFound):
        catalog.find_deleted("disk")


def test_of_several_deleted_ones_the_id_tells(catalog: Catalog) -> None:
    ids = []
    for stamp in (1, 2):
        ids.append(make(catalog, "disk").id)
        catalog.delete(catalog.find("disk"), stamp)
    with pytest.raises(Invalid) as refused:
        catalog.find_deleted("disk")
    assert all(volume_id in str(refused.value) for volume_id in ids)
    assert catalog.find_deleted(ids[0]).description.deleted_stamp == 1


def test_a_live_name_comes_before_a_deleted_one(catalog: Catalog) -> None:
    catalog.delete(make(catalog, "disk"), 1)
    live = make(catalog, "disk")
    assert catalog.find("disk", deleted=True).id == live.id


def test_purge_leaves_nothing(catalog: Catalog) -> None:
    catalog.purge(make(catalog, "disk"))
    assert catalog.entries() == []
    assert list(catalog.volumes.iterdir()) == []


def test_leftovers_are_ignored_and_swept(catalog: Catalog) -> None:
    entry = make(catalog, "disk")
    for leftover in (f".new-{secrets.token_hex(16)}", f".trash-{secrets.token_hex(16)}"):
        shutil.copytree(entry.folder, catalog.volumes / leftover)
    assert names(catalog) == ["disk"]
    catalog.sweep()
    assert [path.name for path in catalog.volumes.iterdir()] == [entry.id]


CRASH = """
import os, secrets, sys
from pathlib import Path
from cdp.catalog import Catalog
from cdp.description import Description
from tests.unit.test_catalog import lay, make

calls, stop = 0, int(sys.argv[2])
def crashing(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == stop:
            os._exit(9)
        return real(*args, **kwargs)
    return call

catalog = Catalog(Path(sys.argv[1]))
catalog.ensure_store()
for name in ("replace", "rename", "mkdir", "fsync", "unlink", "rmdir"):
    setattr(os, name, crashing(getattr(os, name)))
entry = make(catalog, "disk")
entry = catalog.rename(entry, "renamed")
entry = catalog.delete(entry, 5)
catalog.purge(entry)
os._exit(0)
"""


def test_a_crash_anywhere_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    seen = set()
    for stop in range(1, 100):
        catalog = Catalog(tmp_path / str(stop))
        command = [sys.executable, "-c", CRASH, str(catalog.store), str(stop)]
        code = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(root)}).returncode
        entries = catalog.entries()
        assert all(isinstance(entry, Entry) for entry in entries), entries
        state = [(e.name, e.deleted) for e in entries if isinstance(e, Entry)]
        assert state in ([], [("disk", False)], [("renamed", False)], [("renamed", True)])
        seen.add(str(state))
        for entry in entries:
            assert isinstance(entry, Entry)
            assert catalog.heal(entry).problems == ()
        catalog.sweep()
        assert all(len(path.name) == 32 for path in catalog.volumes.iterdir())
        if code == 0:
            break
        assert code == 9
    else:
        pytest.fail("the scenario never came to its end")
    assert len(seen) == 4


def test_every_flipped_byte_of_a_copy_is_noticed(catalog: Catalog) -> None:
    entry = make(catalog, "disk")
    original = (entry.folder / "volume.0").read_bytes()
    for at in range(len(original)):
        for bit in (1, 128):
            broken = bytearray(original)
            broken[at] ^= bit
            with pytest.raises((Corrupt, Invalid)):
                decode(bytes(broken))
    for cut in range(len(original)):
        with pytest.raises(Corrupt):
            decode(original[:cut])


@pytest.mark.parametrize("copy", ["volume.0", "volume.1"])
@pytest.mark.parametrize("damage", [b"", b"\0" * 4096, b"{}\nsha256:0\n", None])
def test_one_copy_is_enough_and_a_writer_heals_the_other(catalog: Catalog, copy: str, damage: bytes | None) -> None:
    entry = make(catalog, "disk")
    broken = entry.folder / copy
    if damage is None:
        broken.unlink()
    else:
        broken.write_bytes(damage)
    before = contents(catalog.store)
    found = catalog.find("disk")
    assert str(broken) in found.problems[0]
    assert contents(catalog.store) == before, "looking wrote"
    healed = catalog.heal(found)
    assert healed.problems == ()
    assert (entry.folder / "volume.0").read_bytes() == (entry.folder / "volume.1").read_bytes()


def test_the_newer_generation_counts(catalog: Catalog) -> None:
    entry = make(catalog, "disk")
    old = (entry.folder / "volume.1").read_bytes()
    catalog.rename(entry, "new")
    (entry.folder / "volume.1").write_bytes(old)
    assert catalog.find("new").problems
    (entry.folder / "volume.1").write_bytes((entry.folder / "volume.0").read_bytes())
    (entry.folder / "volume.0").write_bytes(old)
    assert catalog.find("new").problems


def test_damage_to_both_copies_takes_nobody_along(catalog: Catalog) -> None:
    entry = make(catalog, "disk")
    make(catalog, "other")
    for copy in ("volume.0", "volume.1"):
        (entry.folder / copy).write_bytes(b"garbage")
    damaged = [it for it in catalog.entries() if isinstance(it, Damaged)]
    assert [it.id for it in damaged] == [entry.id]
    assert names(catalog) == ["other"]
    with pytest.raises(Corrupt, match=r"volume\.0"):
        catalog.find(entry.id)
    catalog.purge(damaged[0])
    assert len(catalog.entries()) == 1


@pytest.mark.parametrize("copies", [("volume.0",), ("volume.0", "volume.1")])
def test_a_newer_format_is_left_alone(catalog: Catalog, copies: tuple[str, ...]) -> None:
    entry = make(catalog, "disk")
    document = json.loads((entry.folder / "volume.0").read_bytes().split(b"\n")[0])
    line = json.dumps(document | {"format": 2, "name": ["something", "new"]}).encode()
    for copy in copies:
        (entry.folder / copy).write_bytes(line + b"\nsha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n")
    before = contents(catalog.store)
    (found,) = catalog.entries()
    assert isinstance(found, Damaged)
    assert "version 2" in found.problems[0]
    with pytest.raises(Invalid, match="version 2"):
        catalog.find(entry.id)
    with pytest.raises(Invalid, match="version 2"):
        catalog.rename(entry, "other")
    assert contents(catalog.store) == before


def test_a_copy_of_another_volume_does_not_count(catalog: Catalog) -> None:
    entry, other = make(catalog, "disk"), make(catalog, "other")
    shutil.copy(other.folder / "volume.0", entry.folder / "volume.0")
    found = catalog.find("disk")
    assert found.id == entry.id
    assert other.id in found.problems[0]


def test_a_huge_foreign_file_is_not_read_whole(catalog: Catalog) -> None:
    entry = make(catalog, "disk")
    os.truncate(entry.folder / "volume.0", 1 << 40)
    assert catalog.find("disk").problems
    assert COPY_BYTES_MAX < 1 << 30


def test_a_store_that_refuses_writes_says_so(catalog: Catalog) -> None:
    entry = make(catalog, "disk")
    subprocess.run(["chattr", "+i", str(entry.folder)], check=False, capture_output=True)
    try:
        with pytest.raises(Io):
            catalog.rename(entry, "new")
        assert names(catalog) == ["disk"]
    finally:
        subprocess.run(["chattr", "-i", str(entry.folder)], check=False, capture_output=True)


stamps = st.integers(0, 2**64 - 1)
descriptions = st.builds(
    Description,
    id=st.binary(min_size=16, max_size=16).map(bytes.hex),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    size=st.integers(1, 2**48 - 1).map(lambda sectors: sectors * 512),
    block_size=st.sampled_from([512, 4096]),
    created_stamp=stamps,
    deleted_stamp=st.none() | stamps,
    origin=st.none()
    | st.builds(
        Origin,
        kind=st.sampled_from(["file", "device", "nbd"]),
        path=st.text(),
        size=stamps,
        identity=st.text(),
        changed_stamp=stamps,
    ),
    generation=stamps,
)


@given(descriptions)
def test_a_description_survives_its_bytes(description: Description) -> None:
    assert decode(encode(description)) == description


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
keys = st.sampled_from(["format", "generation", "id", "name", "size", "block_size", "created", "deleted", "origin"])


@given(descriptions, st.dictionaries(keys, json_values, max_size=3))
def test_foreign_json_is_refused_in_words(description: Description, changes: dict[str, object]) -> None:
    line = json.dumps(json.loads(encode(description).split(b"\n")[0]) | changes).encode()
    data = line + b"\nsha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n"
    try:
        again = decode(data)
    except (Corrupt, Invalid):
        return
    assert decode(encode(again)) == again


@given(st.binary())
def test_foreign_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises((Corrupt, Invalid)):
        decode(data)
