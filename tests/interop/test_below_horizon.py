"""Asking for what is no longer kept: every verb says what can be had instead, and none takes another instant in silence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nbd
import pytest

from cdp import _native
from tests.rig.cdp import Cdp
from tests.rig.daemon import Daemon
from tests.rig.disk import connected, put

WRITES = 6
POINT, HORIZON = 2, 5


@dataclass
class Thinned:
    """A volume `disk` of which LSN 2, a bookmark, and everything from LSN 5 on is kept. `stamps`: of every write."""

    cdp: Cdp
    stamps: dict[int, int]

    def at(self, lsn: int) -> str:
        return f"@{self.stamps[lsn] // 10**9}.{self.stamps[lsn] % 10**9:09}"


@pytest.fixture(params=["daemon", "files"])
def disk(request: pytest.FixtureRequest, store: Path) -> Thinned:
    """The verbs are done by the daemon, or on the files."""
    with Daemon(store) as daemon:
        daemon.cdp("create", "disk", "--size", "1MiB")
        for number in range(1, WRITES + 1):
            put(daemon.uri("disk"), 0, bytes([number]) * 512)
        daemon.cdp("bookmark", "disk", "kept", "--at", f"lsn:{POINT}")
    (folder,) = (store / "volumes").iterdir()
    volume = _native.Volume.open(str(folder))
    stamps = dict(volume.stamps(list(range(1, WRITES + 1))))
    volume.retain(HORIZON, [POINT])
    volume.close()
    if request.param == "daemon":
        request.getfixturevalue("daemon")
    return Thinned(Cdp(store), stamps)


def asked(when: str, folder: Path) -> list[tuple[str, ...]]:
    """Every verb that takes an instant, with this one."""
    return [
        ("restore", "disk", "--at", when, "--to", str(folder / "image"), "--force"),
        ("clone", f"disk@{when}", "copy"),
        ("rollback", "disk", "--to", when),
        ("diff", "disk", when, "latest"),
        ("diff", "disk", "latest", when),
        ("bookmark", "disk", "there", "--at", when),
    ]


def test_a_number_that_was_given_up_is_refused_with_its_neighbours(disk: Thinned, tmp_path: Path) -> None:
    before = disk.cdp("show", "disk")["latest"]
    for command in asked("lsn:3", tmp_path):
        said = disk.cdp.run(*command, exit_code=3).stderr
        assert "lsn:3 is no recovery point any more" in said
        assert "the nearest ones are lsn:2 (" in said
        assert "and lsn:5 (" in said
        assert "from lsn:2 (" in said
        assert "every write from lsn:5 (" in said
    said = disk.cdp.run("rollback", "disk", "--to", "lsn:1", exit_code=3).stderr
    assert "the nearest one is lsn:2 (" in said
    assert disk.cdp("show", "disk")["latest"] == before
    assert [it["name"] for it in disk.cdp("list")] == ["disk"]
    assert not (tmp_path / "image").exists()


def test_a_time_before_everything_is_refused_with_the_range(disk: Thinned, tmp_path: Path) -> None:
    for command in asked(disk.at(1), tmp_path):
        said = disk.cdp.run(*command, exit_code=3).stderr
        assert "before the oldest instant; what can be reached lies from lsn:2 (" in said


def test_a_time_below_the_horizon_means_the_point_before_it_and_says_so(disk: Thinned, tmp_path: Path) -> None:
    for command in asked(disk.at(4), tmp_path):
        done = disk.cdp.run(*command)
        assert "lsn:2 (" in done.stdout
        assert "not every write of that time is kept" in done.stderr
        assert "lsn:2 (" in done.stderr
    assert (tmp_path / "image").read_bytes()[:512] == bytes([2]) * 512
    told = disk.cdp("diff", "disk", disk.at(4), "lsn:5")
    assert (told["since"]["kept_point"], told["until"]["kept_point"]) == (True, False)


def test_exact_refuses_it(disk: Thinned, tmp_path: Path) -> None:
    before = disk.cdp("show", "disk")["latest"]
    for command in asked(disk.at(4), tmp_path):
        said = disk.cdp.run(*command, "--exact", exit_code=3).stderr
        assert "the newest instant kept before it is lsn:2 (" in said
        assert "--exact" in said
    assert disk.cdp("show", "disk")["latest"] == before
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize("lsn", [HORIZON, WRITES])
def test_exact_takes_what_is_kept(disk: Thinned, lsn: int, tmp_path: Path) -> None:
    for when in (disk.at(lsn), f"lsn:{lsn}"):
        done = disk.cdp.run("restore", "disk", "--at", when, "--to", tmp_path / "image", "--force", "--exact")
        assert f"lsn:{lsn} (" in done.stdout
        assert done.stderr == ""
    assert (tmp_path / "image").read_bytes()[:512] == bytes([lsn]) * 512
    disk.cdp("restore", "disk", "--at", "bookmark:kept", "--to", tmp_path / "image", "--force", "--exact")
    assert (tmp_path / "image").read_bytes()[:512] == bytes([POINT]) * 512


@pytest.mark.parametrize("disk", ["daemon"], indirect=True)
def test_a_view_names_the_point_that_it_shows(disk: Thinned, daemon: Daemon) -> None:
    for gone in ("lsn:3", "lsn:3+scratch", disk.at(1)):
        with pytest.raises(nbd.Error, match="ENOENT"):
            nbd.NBD().connect_uri(daemon.uri("disk", gone))
    handle = nbd.NBD()
    handle.set_full_info(True)
    handle.connect_uri(daemon.uri("disk", disk.at(4)))
    assert "at lsn:2," in handle.get_export_description()
    handle.shutdown()
    with connected(daemon.uri("disk", disk.at(4))) as view:
        assert bytes(view.pread(512, 0)) == bytes([2]) * 512
