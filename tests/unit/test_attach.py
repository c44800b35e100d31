"""Attached devices: what needs neither a device nor a daemon."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from cdp.attach import netlink, notes, place
from cdp.attach.inside import Place, parse_place, resolve
from cdp.attach.left import Left, Wish
from cdp.attach.mounting import mount_options
from cdp.attach.netlink_message import NbdMessage
from cdp.attach.notes import Attachment
from cdp.errors import Busy, Closed, Corrupt, Invalid, NotFound
from cdp.store import LocalStore

LIVE = Attachment(
    id="0badcafe",
    driver="fuse",
    device="/dev/loop99",
    volume_id="0" * 32,
    name="disk",
    export="0" * 32,
    lsn=None,
    stamp=None,
    scratch_id=None,
    owns_scratch=False,
    read_only=False,
    mount=None,
    timeout_seconds=300,
    made_stamp=1,
)
VIEW = replace(LIVE, id="1", device="/dev/loop98", export="0" * 32 + "@lsn:5", lsn=5, stamp=7, read_only=True)


@pytest.mark.parametrize(
    ("kind", "instant", "read_only", "options"),
    [
        ("ext4", True, False, ["ro"]),
        ("xfs", True, False, ["ro", "nouuid"]),
        ("xfs", False, False, []),
        ("xfs", False, True, ["ro"]),
        ("btrfs", True, False, ["ro"]),
    ],
)
def test_how_a_file_system_is_mounted(kind: str, instant: bool, read_only: bool, options: list[str]) -> None:
    assert mount_options(kind, instant=instant, read_only=read_only) == options


def test_notes_come_back_as_they_were(store: Path) -> None:
    assert notes.read(store) == []
    notes.write(store, [LIVE, VIEW])
    assert notes.read(store) == [LIVE, VIEW]
    assert [one.shown for one in notes.read(store)] == ["disk", "disk@lsn:5"]


def test_notes_of_another_boot_count_as_none(store: Path) -> None:
    notes.write(store, [LIVE])
    told = json.loads(notes.path(store).read_text())
    notes.path(store).write_text(json.dumps(told | {"boot": "another"}))
    assert notes.read(store) == []


@pytest.mark.parametrize("change", [{"version": 2}, {"attached": 3}, {"attached": [{"id": "1"}]}, {"boot": None}])
def test_notes_that_cannot_be_understood(store: Path, change: dict[str, object]) -> None:
    local = LocalStore(store)
    local.create("disk", 1 << 20, 4096, None)
    notes.write(store, [LIVE])
    told = json.loads(notes.path(store).read_text())
    notes.path(store).write_text(json.dumps(told | change) if change != {"boot": None} else "{")
    with pytest.raises(Corrupt, match=r"attached\.json"):
        notes.read(store)
    assert [it.attached for it in local.list()] == [()]


def test_without_a_daemon_nothing_is_attached(store: Path) -> None:
    left = Left(store)
    assert left.facts() == []
    with pytest.raises(Closed, match="daemon"):
        left.attach(Wish("disk"))
    with pytest.raises(NotFound, match="not attached"):
        left.detach("/dev/null")


def test_what_is_attached_is_neither_deleted_nor_rolled_back(store: Path) -> None:
    local = LocalStore(store)
    made = local.create("disk", 1 << 20, 4096, None)
    notes.write(store, [replace(VIEW, volume_id=made.id)])
    with pytest.raises(Busy, match="/dev/loop98"):
        local.delete("disk", now=True)
    notes.write(store, [replace(LIVE, volume_id=made.id)])
    with pytest.raises(Busy, match="/dev/loop99"):
        local.rollback("disk", None, force=True)
    assert [it.device for it in local.list()[0].attached] == ["/dev/loop99"]


def test_a_store_on_no_device_of_its_own(store: Path) -> None:
    place.refuse_own_device(store)


def test_whose_a_device_is(store: Path) -> None:
    key = place.store_key(store)
    assert place.front_folder(store, "1").name == f"{key}-1"
    assert place.backend(store, "1", "live") == f"cdp:{key}:1:live"
    assert place.store_key(store / ".." / store.name) == key


def test_a_message_for_the_kernel() -> None:
    """As linux/nbd-netlink.h has it: attributes by number, sockets nested twice."""
    message = NbdMessage()
    message["cmd"] = netlink.RECONFIGURE
    message["version"] = netlink.VERSION
    sockets = {"attrs": [("NBD_SOCK_ITEM", {"attrs": [("NBD_SOCK_FD", 5)]})]}
    message["attrs"] = [("NBD_ATTR_INDEX", 3), ("NBD_ATTR_SOCKETS", sockets), ("NBD_ATTR_BACKEND_IDENTIFIER", "b")]
    message.encode()
    body = bytes(message.data)[16:]
    item = struct.pack("=HH", 12, 1) + struct.pack("=HHI", 8, 1, 5)
    length, kind = struct.unpack("=HH", body[12:16])
    assert body[:4] == struct.pack("=BBH", 3, 1, 0)
    assert body[4:12] == struct.pack("=HHI", 8, 1, 3)
    # The highest bit only says that it is nested.
    assert (length, kind & 0x7FFF) == (16, 7)
    assert body[16:] == item + struct.pack("=HH2sxx", 6, 10, b"b\0")


@pytest.mark.parametrize(
    ("text", "export", "path"),
    [
        ("disk@2026-11-22T10:48:20.5Z:/etc/passwd", "disk@2026-11-22T10:48:20.5Z", "/etc/passwd"),
        ("disk@bookmark:good:/", "disk@bookmark:good", "/"),
        ("disk:/a:/b", "disk", "/a:/b"),
    ],
)
def test_a_place_on_a_disk(text: str, export: str, path: str) -> None:
    assert parse_place(text) == Place(export, PurePosixPath(path))


def test_links_stay_on_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/file").write_text("")
    for name, target in {
        "abs": "/a",
        "out": "/../../etc",
        "deep": "abs/file",
        "a/up": "../../a",
        "loop": "loop",
    }.items():
        (root / name).symlink_to(target)
    for path, found in {
        "/": "",
        "/abs/file": "a/file",
        "/deep": "a/file",
        "/a/up/file": "a/file",
        "/../..": "",
    }.items():
        assert resolve(root, PurePosixPath(path)) == root / found
    with pytest.raises(NotFound):
        resolve(root, PurePosixPath("/out"))
    with pytest.raises(Invalid, match="links"):
        resolve(root, PurePosixPath("/loop"))
    with pytest.raises(NotFound):
        resolve(root, PurePosixPath("/a/file/below"))
