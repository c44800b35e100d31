"""Rollbacks and clones as a user makes them: with the daemon, and without it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbd
import pytest

from tests.interop.test_control_restore import attached
from tests.rig.cdp import Cdp
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.disk import connected, get, put
from tests.rig.process import run

MIB = 1 << 20
STATES = 4


@pytest.fixture(params=["daemon", "files"])
def verbs(request: pytest.FixtureRequest, history: list[tuple[int, bytes]], store: Path) -> Cdp:
    """The command line over the store of `history`, done by the daemon or on the files."""
    assert history
    if request.param == "daemon":
        request.getfixturevalue("daemon")
    return Cdp(store)


@pytest.fixture
def history(store: Path) -> list[tuple[int, bytes]]:
    """A volume `disk` with some states, each the LSN and the bytes; the daemon that served them is gone."""
    with Daemon(store) as daemon:
        daemon.cdp("create", "disk", "--size", "4MiB")
        states = [(0, bytes(4 * MIB))]
        for number in range(STATES):
            data, at = content(MIB, number), number * MIB // 2
            put(daemon.uri("disk"), at, data)
            before = states[-1][1]
            states.append((number + 1, before[:at] + data + before[at + MIB :]))
    return states


def image(cdp: Cdp, volume: str, when: str, folder: Path) -> bytes:
    """The volume at an instant, by way of a restore."""
    target = folder / "image"
    cdp.run("restore", volume, "--at", when, "--to", target, "--force")
    return target.read_bytes()


def test_a_rollback_goes_on_from_an_instant_and_can_be_undone(
    verbs: Cdp, history: list[tuple[int, bytes]], tmp_path: Path
) -> None:
    made = verbs("rollback", "disk", "--to", "lsn:2")
    assert (made["before"]["lsn"], made["to"]["lsn"], made["lsn"]) == (STATES, 2, STATES + 1)
    assert image(verbs, "disk", "latest", tmp_path) == history[2][1]
    for lsn, state in history:
        assert image(verbs, "disk", f"lsn:{lsn}", tmp_path) == state
    undone = verbs("rollback", "disk", "--undo")
    assert (undone["to"]["lsn"], undone["lsn"]) == (STATES, STATES + 2)
    assert image(verbs, "disk", "latest", tmp_path) == history[STATES][1]
    # What undoes an undo is another one.
    verbs("rollback", "disk", "--undo")
    assert image(verbs, "disk", "latest", tmp_path) == history[2][1]
    events = [(event["event"], event["details"]) for event in verbs("log", "disk")["events"]]
    assert [details["to"] for event, details in events if event == "rollback"] == [2, STATES, STATES + 1]


def test_a_rollback_says_how_to_undo_it(verbs: Cdp) -> None:
    told = verbs.run("rollback", "disk", "--to", "lsn:1").stdout
    assert f"lsn:{STATES + 1}" in told
    assert f"before: lsn:{STATES}" in told
    assert "cdp rollback disk --undo" in told


def test_what_cannot_be_rolled_back(verbs: Cdp) -> None:
    assert "no rollback" in verbs.run("rollback", "disk", "--undo", exit_code=3).stderr
    assert "reached" in verbs.run("rollback", "disk", "--to", "lsn:99", exit_code=3).stderr
    verbs.run("rollback", "disk", exit_code=2)
    verbs.run("rollback", "disk", "--to", "latest", "--undo", exit_code=2)
    verbs.run("rollback", "none", "--to", "latest", exit_code=3)


def test_who_could_write_goes_before_a_rollback(daemon: Daemon) -> None:
    daemon.cdp("create", "disk", "--size", "1MiB")
    put(daemon.uri("disk"), 0, b"a" * 512)
    with connected(daemon.uri("disk", "lsn:1")) as looker:
        writer = nbd.NBD()
        writer.connect_uri(daemon.uri("disk"))
        writer.pwrite(b"b" * 512, 0)
        assert "--force" in daemon.cdp.run("rollback", "disk", "--to", "lsn:1", exit_code=4).stderr
        assert bytes(writer.pread(512, 0)) == b"b" * 512
        made = daemon.cdp("rollback", "disk", "--to", "lsn:1", "--force")
        assert (made["before"]["lsn"], made["lsn"], made["connections_ended"]) == (2, 3, 1)
        with pytest.raises(nbd.Error):
            writer.pread(512, 0)
        assert bytes(looker.pread(512, 0)) == b"a" * 512
    assert get(daemon.uri("disk"))[:512] == b"a" * 512
    assert get(daemon.uri("disk", "lsn:2"))[:512] == b"b" * 512


def test_a_clone_begins_where_it_was_made(verbs: Cdp, history: list[tuple[int, bytes]], tmp_path: Path) -> None:
    made = verbs("clone", "disk@lsn:2", "copy")
    assert (made["parent"]["name"], made["parent"]["lsn"], made["size"]) == ("disk", 2, 4 * MIB)
    assert image(verbs, "copy", "latest", tmp_path) == history[2][1]
    shown = verbs("show", "copy")
    assert shown["oldest"]["lsn"] == shown["latest"]["lsn"] == 2
    for lsn in (0, 1, 3):
        verbs.run("restore", "copy", "--at", f"lsn:{lsn}", "--to", tmp_path / "none", exit_code=3)
    assert verbs("verify", "copy")["findings"] == []
    assert verbs.run("clone", "disk@lsn:2", "copy", exit_code=2).stderr
    assert verbs.run("clone", "disk@lsn:2+scratch", "other", exit_code=2).stderr
    assert verbs.run("clone", "disk@lsn:99", "other", exit_code=3).stderr
    assert {it["name"] for it in verbs("list")} == {"disk", "copy"}
    assert [name for name in os.listdir(verbs.store / "volumes") if name.startswith(".")] == []


def test_a_clone_has_no_bookmarks_and_no_events_of_its_parent(verbs: Cdp) -> None:
    verbs("bookmark", "disk", "here", "--at", "lsn:1")
    verbs("rollback", "disk", "--to", "lsn:1")
    verbs("clone", "disk", "copy")
    assert verbs("show", "copy")["bookmarks"] == []
    log = verbs("log", "copy")
    assert (log["events"], log["bookmarks"]) == ([], [])
    verbs("bookmark", "copy", "here")
    assert [mark["name"] for mark in verbs("show", "copy")["bookmarks"]] == ["here"]


def test_either_may_be_deleted(store: Path, history: list[tuple[int, bytes]]) -> None:
    with Daemon(store) as daemon:
        daemon.cdp("clone", "disk@lsn:2", "first")
        put(daemon.uri("first"), 0, content(MIB, "first"))
        daemon.cdp("clone", "first@latest", "second")
        daemon.cdp("delete", "first", "--now")
        daemon.cdp("delete", "disk", "--now")
        expected = content(MIB, "first") + history[2][1][MIB:]
        assert get(daemon.uri("second")) == expected
        assert daemon.cdp("verify", "second")["findings"] == []
    (folder,) = (store / "volumes").iterdir()
    assert {path.stat().st_nlink for path in folder.glob("segment-*")} == {1}
    with Daemon(store) as daemon:
        assert get(daemon.uri("second")) == expected


def test_the_reference_reader_agrees_on_clones(
    store: Path, cdp: Cdp, history: list[tuple[int, bytes]], tmp_path: Path
) -> None:
    cdp("rollback", "disk", "--to", "lsn:1")
    with Daemon(store) as daemon:
        put(daemon.uri("disk"), 3 * MIB, content(MIB, "behind"))
        daemon.cdp("clone", "disk", "first")
        put(daemon.uri("first"), 0, content(MIB, "first"))
        daemon.cdp("clone", "first@latest", "second")
        put(daemon.uri("second"), 2 * MIB, content(MIB // 2, "second"))
        served = {name: get(daemon.uri(name)) for name in ("disk", "first", "second")}
        daemon.kill()
    for name, expected in served.items():
        target = tmp_path / name
        run(sys.executable, "-m", "cdp.salvage", "restore", name, "--store", store, "--to", target, "--at", "latest")
        assert target.read_bytes() == expected


def test_a_family_shares_a_block_device_as_its_origin(daemon: Daemon, tmp_path: Path) -> None:
    base = tmp_path / "device"
    base.write_bytes(content(MIB, "device"))
    with attached(base) as device:
        daemon.cdp("create", "disk", "--origin", str(device))
        put(daemon.uri("disk"), 0, b"x" * 512)
        daemon.cdp("clone", "disk@lsn:0", "copy")
        assert get(daemon.uri("copy")) == base.read_bytes()
        daemon.cdp("delete", "disk", "--now")
        with pytest.raises(OSError, match="busy"):
            os.close(os.open(device, os.O_RDWR | os.O_EXCL))
        put(daemon.uri("copy"), 512, b"y" * 512)
        daemon.cdp("delete", "copy", "--now")
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))
