"""Volumes over an origin: its bytes show through, it is never written, and a changed one is refused until accepted."""

from __future__ import annotations

import os
from pathlib import Path

import nbd
import pytest

from tests.interop.test_control_restore import attached, nbdkit
from tests.rig.cdp import Cdp
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.disk import get, put

MIB = 1 << 20


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.write_bytes(content(2 * MIB + 300, "base"))
    return path


def padded(base: bytes, size: int) -> bytes:
    return base + bytes(size - len(base))


def test_the_origin_shows_through_and_stays_as_it_is(daemon: Daemon, base: Path, tmp_path: Path) -> None:
    made = daemon.cdp("create", "disk", "--origin", str(base))
    assert made["size"] == 2 * MIB + 512
    assert made["origin"]["kind"] == "file"
    expected = padded(base.read_bytes(), made["size"])
    assert get(daemon.uri("disk")) == expected
    original = base.read_bytes()
    put(daemon.uri("disk"), MIB + 100, b"new" * 100)
    assert get(daemon.uri("disk")) == expected[: MIB + 100] + b"new" * 100 + expected[MIB + 400 :]
    assert get(daemon.uri("disk", "oldest")) == expected
    daemon.cdp("restore", "disk", "--at", "oldest", "--to", tmp_path / "back", "--verify")
    assert (tmp_path / "back").read_bytes() == expected
    assert base.read_bytes() == original


def test_a_size_beyond_the_origin_reads_as_zeros(daemon: Daemon, base: Path) -> None:
    daemon.cdp("create", "disk", "--origin", str(base), "--size", "4MiB")
    assert get(daemon.uri("disk")) == padded(base.read_bytes(), 4 * MIB)


def test_a_changed_origin_is_refused_until_accepted(store: Path, base: Path, tmp_path: Path) -> None:
    cdp = Cdp(store)
    cdp("create", "disk", "--origin", str(base))
    with base.open("r+b") as file:
        file.write(b"changed")
    target = str(tmp_path / "back")
    said = cdp.run("restore", "disk", "--at", "latest", "--to", target, exit_code=2).stderr
    assert "written to" in said
    assert "cdp accept-origin disk" in said
    assert "cdp accept-origin disk" in cdp("show", "disk")["faults"][0]
    with Daemon(store) as daemon:
        with pytest.raises(nbd.Error, match="server rejected"):
            get(daemon.uri("disk"))
        assert "cdp accept-origin disk" in daemon.cdp("show", "disk")["faults"][0]
        daemon.cdp("accept-origin", "disk")
        assert get(daemon.uri("disk"))[:7] == b"changed"
        assert daemon.cdp("show", "disk")["faults"] == []
    (event,) = [it for it in cdp("log", "disk")["events"] if it["event"] == "origin-accepted"]
    assert event["details"]["path"] == str(base)
    cdp("accept-origin", "disk")
    cdp("restore", "disk", "--at", "latest", "--to", target)


def test_a_missing_origin_is_an_error_of_its_volume_only(daemon: Daemon, base: Path) -> None:
    daemon.cdp("create", "disk", "--origin", str(base))
    daemon.cdp("create", "other", "--size", "1MiB")
    base.unlink()
    with pytest.raises(nbd.Error, match="server"):
        get(daemon.uri("disk"))
    assert get(daemon.uri("other")) == bytes(MIB)
    assert daemon.cdp("show", "disk")["latest"]["lsn"] == 0


def test_a_block_device_is_held(daemon: Daemon, tmp_path: Path) -> None:
    image = tmp_path / "device"
    image.write_bytes(content(MIB, "device"))
    with attached(image) as device:
        assert daemon.cdp("create", "disk", "--origin", str(device))["origin"]["kind"] == "device"
        assert get(daemon.uri("disk")) == image.read_bytes()
        with pytest.raises(OSError, match="busy"):
            os.close(os.open(device, os.O_RDWR | os.O_EXCL))
        daemon.cdp("restore", "disk", "--at", "latest", "--to", tmp_path / "back", "--verify")
        daemon.cdp("delete", "disk", "--now")
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))


def test_an_nbd_origin(daemon: Daemon, base: Path, tmp_path: Path) -> None:
    with nbdkit("-r", "--filter=truncate", "file", str(base), "truncate=2M") as uri:
        made = daemon.cdp("create", "disk", "--origin", uri)
        assert (made["size"], made["origin"]["kind"]) == (2 * MIB, "nbd")
        assert get(daemon.uri("disk")) == base.read_bytes()[: 2 * MIB]
        daemon.cdp("restore", "disk", "--at", "latest", "--to", tmp_path / "back", "--verify")
        # The other server ends only when the daemon has let go of it.
        daemon.cdp("delete", "disk", "--now")
    assert (tmp_path / "back").read_bytes() == base.read_bytes()[: 2 * MIB]


def test_what_cannot_be_an_origin(daemon: Daemon, tmp_path: Path) -> None:
    daemon.cdp.run("create", "disk", "--origin", str(tmp_path / "none"), exit_code=3)
    daemon.cdp.run("create", "disk", "--origin", "/dev/null", exit_code=2)
    daemon.cdp.run("create", "disk", "--origin", "nbd+unix:///?socket=/nonexistent", exit_code=8)
    assert daemon.cdp("list") == []
