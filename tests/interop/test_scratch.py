"""Scratch views: writable exports of an instant, thrown away."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import nbd
import pytest

from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.disk import connected, get, put
from tests.rig.process import run
from tools.demo.disks import can_mount, make_image, mounted

MIB = 1 << 20


@pytest.fixture
def disk(daemon: Daemon) -> str:
    daemon.cdp("create", "disk", "--size", "1MiB")
    put(daemon.uri("disk"), 0, b"a" * 4096)
    put(daemon.uri("disk"), 0, b"b" * 4096)
    return "disk"


def scratch_folders(daemon: Daemon) -> list[str]:
    return [name for name in os.listdir(daemon.store / "volumes") if name.startswith(".scratch-")]


def test_without_an_id_each_connection_has_its_own(daemon: Daemon, disk: str) -> None:
    uri = daemon.uri(disk, "lsn:1+scratch")
    with connected(uri) as first, connected(uri) as second:
        assert not first.can_multi_conn()
        assert not first.is_read_only()
        first.pwrite(b"1" * 512, 0)
        second.pwrite(b"2" * 512, 512)
        assert bytes(first.pread(1024, 0)) == b"1" * 512 + b"a" * 512
        assert bytes(second.pread(1024, 0)) == b"a" * 512 + b"2" * 512
        assert len(scratch_folders(daemon)) == 2
    assert get(daemon.uri(disk))[:512] == b"b" * 512
    assert get(uri)[:1024] == b"a" * 1024
    daemon.stop()
    assert scratch_folders(daemon) == []


def test_with_an_id_it_is_shared_until_it_is_released(daemon: Daemon, disk: str) -> None:
    uri = daemon.uri(disk, "lsn:1+scratch=mine")
    with connected(uri) as first, connected(uri) as second:
        assert first.can_multi_conn()
        first.pwrite(b"1" * 512, 0)
        assert bytes(second.pread(512, 0)) == b"1" * 512
        assert daemon.cdp("scratch", disk)[0]["connections"] == 2
        assert "--force" in daemon.cdp.run("scratch", disk, "--release", "mine", exit_code=4).stderr
    assert get(uri)[:512] == b"1" * 512
    (told,) = daemon.cdp("scratch", disk)
    assert (told["id"], told["lsn"]) == ("mine", 1)
    with pytest.raises(nbd.Error, match="EINVAL"):
        get(daemon.uri(disk, "lsn:2+scratch=mine"))
    assert get(daemon.uri(disk, "lsn:2+scratch=other"))[:512] == b"b" * 512
    daemon.cdp("scratch", disk, "--release", "mine")
    daemon.cdp.run("scratch", disk, "--release", "mine", exit_code=3)
    assert get(uri)[:512] == b"a" * 512


def test_force_ends_the_connections_of_a_scratch_view(daemon: Daemon, disk: str) -> None:
    handle = nbd.NBD()
    handle.connect_uri(daemon.uri(disk, "lsn:1+scratch=mine"))
    handle.pwrite(b"1" * 512, 0)
    assert daemon.cdp("scratch", disk, "--release", "mine", "--force")["connections"] == 1
    with pytest.raises(nbd.Error):
        handle.pread(512, 0)
    assert daemon.cdp("scratch", disk) == []


def test_a_volume_with_scratch_views_is_not_deleted(daemon: Daemon, disk: str) -> None:
    put(daemon.uri(disk, "lsn:1+scratch=mine"), 0, b"1" * 512)
    assert "mine" in daemon.cdp.run("delete", disk, exit_code=4).stderr
    daemon.cdp("scratch", disk, "--release", "mine")
    daemon.cdp("delete", disk, "--now")


def test_who_only_asks_leaves_nothing(daemon: Daemon, disk: str) -> None:
    run("nbdinfo", daemon.uri(disk, "lsn:1+scratch=mine"))
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_uri(daemon.uri(disk, "lsn:1+scratch=asked"))
    handle.opt_info()
    handle.opt_abort()
    daemon.cdp("scratch", disk, "--release", "mine")
    daemon.cdp.run("scratch", disk, "--release", "asked", exit_code=3)


def test_nothing_of_it_outlives_a_kill(daemon: Daemon, disk: str) -> None:
    put(daemon.uri(disk, "lsn:1+scratch=mine"), 0, content(MIB, "lost"))
    daemon.kill()
    assert len(scratch_folders(daemon)) == 1
    daemon.start()
    assert scratch_folders(daemon) == []
    assert daemon.cdp("scratch", disk) == []
    assert get(daemon.uri(disk))[:512] == b"b" * 512


def test_a_journaling_file_system_replays_its_log_on_it(daemon: Daemon, tmp_path: Path) -> None:
    why_not = can_mount()
    if why_not is not None:
        pytest.skip(why_not)
    files, size = tmp_path / "files", 64 * MIB
    files.mkdir()
    (files / "old").write_bytes(content(MIB, "old"))
    make_image(tmp_path / "image", size, files)
    daemon.cdp("create", "disk", "--size", str(size))
    run("nbdcopy", "--flush", tmp_path / "image", daemon.uri("disk"))
    with contextlib.ExitStack() as cleanup:
        live = mounted(daemon.uri("disk"), tmp_path / "live", cleanup)
        (live / "new").write_bytes(content(MIB, "new"))
        descriptor = os.open(live / "new", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        # In the middle of its life: the file's metadata is in the journal of the file system only.
        lsn = daemon.cdp("show", "disk")["latest"]["lsn"]
        (live / "old").unlink()
        run("sync", "--file-system", live)
        with contextlib.ExitStack() as inner:
            then = mounted(daemon.uri("disk", f"lsn:{lsn}+scratch=look"), tmp_path / "then", inner)
            assert (then / "old").read_bytes() == content(MIB, "old")
            assert (then / "new").read_bytes() == content(MIB, "new")
            (then / "mine").write_bytes(b"mine")
            assert sorted(os.listdir(live)) == ["lost+found", "new"]
        run("e2fsck", "-f", "-n", _copied(daemon, f"lsn:{lsn}+scratch=look", tmp_path / "checked"))
    daemon.cdp("scratch", "disk", "--release", "look")


def _copied(daemon: Daemon, when: str, target: Path) -> Path:
    run("nbdcopy", daemon.uri("disk", when), target)
    return target
