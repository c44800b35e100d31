"""qemu-img copies a disk in and out, and finds in the served volume the bytes and the holes of the file it came from."""

from __future__ import annotations

import json
from pathlib import Path

from tests.rig.clients import Qemu
from tests.rig.content import DISK_BYTES, content, content_file
from tests.rig.daemon import Daemon, Transport


def test_convert_in_and_out(served: Daemon, disk: str, qemu: Qemu, transport: Transport, tmp_path: Path) -> None:
    source = content_file(tmp_path / "source", DISK_BYTES, disk)
    uri = served.uri(disk, transport=transport)
    qemu.convert(source, uri, "-n")
    qemu.img("compare", "-f", "raw", "-F", "raw", source, uri)
    qemu.convert(uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_convert_out_of_order_with_many_requests(served: Daemon, disk: str, qemu: Qemu, tmp_path: Path) -> None:
    source = content_file(tmp_path / "source", DISK_BYTES, disk)
    qemu.convert(source, served.uri(disk), "-n", "-W", "-m", "16")
    qemu.convert(served.uri(disk), tmp_path / "back", "-W", "-m", "16")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_info_tells_the_size(served: Daemon, disk: str, qemu: Qemu, transport: Transport) -> None:
    told = json.loads(qemu.img("info", "--output=json", served.uri(disk, transport=transport)))
    assert told["virtual-size"] == DISK_BYTES


def test_map_tells_data_from_holes(served: Daemon, disk: str, qemu: Qemu) -> None:
    uri = served.uri(disk)
    qemu.io(uri, ["write -P 0x5a 1M 128k", "write -P 0x5b 8M 4k", "write -z 9M 1M"])
    extents = json.loads(qemu.img("map", "--output=json", "-f", "raw", uri))
    data = [(extent["start"], extent["length"]) for extent in extents if extent["data"] and not extent["zero"]]
    assert data == [(1 << 20, 128 << 10), (8 << 20, 4 << 10)]


def test_a_qcow2_image_lives_on_a_volume(served: Daemon, disk: str, qemu: Qemu, tmp_path: Path) -> None:
    source = content_file(tmp_path / "source", 16 << 20, disk)
    uri = served.uri(disk)
    qemu.img("create", "-f", "qcow2", uri, "32M")
    qemu.img("convert", "-n", "-f", "raw", "-O", "qcow2", source, uri)
    qemu.img("check", "-f", "qcow2", uri)
    qemu.img("convert", "-f", "qcow2", "-O", "raw", uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content(16 << 20, disk) + bytes(16 << 20)
