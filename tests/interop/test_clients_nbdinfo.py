"""What nbdinfo is told about exports: names, sizes, features and the map."""

from __future__ import annotations

import pytest

from tests.rig.clients import Qemu, nbd_can, nbd_is, nbdinfo
from tests.rig.content import DISK_BYTES
from tests.rig.daemon import Daemon, Transport


def test_list_names_every_volume(served: Daemon, disk: str, transport: Transport) -> None:
    other = f"{disk}.other"
    served.cdp("create", other, "--size", "1MiB")
    exports = nbdinfo("--list", served.uri("", transport=transport))["exports"]
    sizes = {export["export-name"]: export["export-size"] for export in exports}
    assert sizes[disk] == DISK_BYTES
    assert sizes[other] == 1 << 20


def test_sizes_of_a_volume(served: Daemon, disk: str, transport: Transport) -> None:
    export = nbdinfo(served.uri(disk, transport=transport))["exports"][0]
    assert export["export-size"] == DISK_BYTES
    assert export["block_size_minimum"] == 1
    assert export["block_size_preferred"] == 4096
    assert export["block_size_maximum"] == 32 << 20
    assert "base:allocation" in export["contexts"]


@pytest.mark.parametrize(
    "feature", ["multi-conn", "flush", "fua", "trim", "zero", "fast-zero", "cache", "df", "structured-reply"]
)
def test_a_volume_can(served: Daemon, disk: str, feature: str) -> None:
    assert nbd_can(feature, served.uri(disk))


def test_a_volume_is_writable_and_an_instant_is_not(served: Daemon, disk: str) -> None:
    assert not nbd_is("read-only", served.uri(disk))
    assert nbd_is("read-only", served.uri(disk, "lsn:0"))


def test_only_an_absolute_instant_is_the_same_on_every_connection(served: Daemon, disk: str) -> None:
    assert nbd_can("multi-conn", served.uri(disk, "lsn:0"))
    assert not nbd_can("multi-conn", served.uri(disk, "latest"))


def test_map_of_a_new_volume_is_one_hole(served: Daemon, disk: str, transport: Transport) -> None:
    extents = nbdinfo("--map", served.uri(disk, transport=transport))
    assert {(extent["offset"], extent["length"], extent["type"]) for extent in extents} == {(0, DISK_BYTES, 3)}


def test_map_shows_what_was_written(served: Daemon, disk: str, qemu: Qemu) -> None:
    uri = served.uri(disk)
    qemu.io(uri, ["write -P 1 0 64k", "write -P 2 1M 512", "discard 0 4k"])
    data = [(extent["offset"], extent["length"]) for extent in nbdinfo("--map", uri) if extent["type"] == 0]
    assert data == [(4 << 10, 60 << 10), (1 << 20, 512)]


def test_an_unknown_export_is_refused_by_name(served: Daemon) -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        nbdinfo(served.uri("nowhere"))
