"""The verbs of the command line on a real store: the same with the daemon, and without it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.rig.cdp import Cdp
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.disk import connected, get, put

MIB = 1 << 20


@pytest.fixture(params=["daemon", "files"])
def verbs(request: pytest.FixtureRequest, store: Path) -> Cdp:
    """The command line, done by the daemon or on the files."""
    if request.param == "daemon":
        request.getfixturevalue("daemon")
    return Cdp(store)


@pytest.fixture
def history(store: Path) -> list[tuple[int, bytes]]:
    """A volume `disk` with three states, each the LSN and the bytes; the daemon that served them is gone."""
    with Daemon(store) as daemon:
        daemon.cdp("create", "disk", "--size", "4MiB")
        states = [(0, bytes(4 * MIB))]
        for number in range(3):
            data = content(MIB, number)
            put(daemon.uri("disk"), number * MIB // 2, data)
            before, at = states[-1][1], number * MIB // 2
            states.append((latest(daemon.cdp), before[:at] + data + before[at + MIB :]))
    return states


@pytest.fixture
def told(history: list[tuple[int, bytes]], verbs: Cdp) -> Cdp:
    """The command line over the store of `history`."""
    assert history
    return verbs


def latest(cdp: Cdp, volume: str = "disk") -> int:
    lsn: int = cdp("show", volume)["latest"]["lsn"]
    return lsn


def refusal(cdp: Cdp, code: int, *words: str) -> str:
    return cdp.run(words[0], *words[1:], exit_code=code).stderr


def files_of(store: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file of the store's volumes with its time of change and its bytes."""
    found = {}
    for path in sorted((store / "volumes").rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mtime_ns, status.st_mode, path.read_bytes() if path.is_file() else b"")
    return found


def test_the_life_of_a_name(verbs: Cdp) -> None:
    made = verbs("create", "disk", "--size", "1MiB", "--block-size", "512")
    assert (made["name"], made["size"], made["block_size"], made["state"]) == ("disk", MIB, 512, "ok")
    assert "already" in refusal(verbs, 2, "create", "disk", "--size", "1MiB")
    verbs("create", "other", "--size", "2MiB")
    assert "already" in refusal(verbs, 2, "rename", "other", "disk")
    assert [(it["name"], it["size"]) for it in verbs("list")] == [("disk", MIB), ("other", 2 * MIB)]
    assert verbs("rename", "disk", "disc")["id"] == made["id"]
    assert "no volume" in refusal(verbs, 3, "show", "disk")
    assert verbs("show", "disc")["volume"]["name"] == "disc"
    assert verbs("delete", "disc")["state"] == "deleted"
    assert [it["name"] for it in verbs("list")] == ["other"]
    assert [it["name"] for it in verbs("list", "--all")] == ["disc", "other"]
    assert "undelete" in refusal(verbs, 3, "delete", "disc")
    verbs("create", "disc", "--size", "1MiB")
    assert "already" in refusal(verbs, 2, "undelete", "disc")
    verbs("delete", "disc", "--now")
    assert verbs("undelete", "disc")["id"] == made["id"]
    verbs("delete", "disc")
    verbs("delete", made["id"], "--now")
    assert "no volume" in refusal(verbs, 3, "delete", "disc", "--now")
    assert [it["name"] for it in verbs("list", "--all")] == ["other"]
    assert len(os.listdir(verbs.store / "volumes")) == 1


def test_a_terabyte_is_made_at_once(verbs: Cdp) -> None:
    assert verbs("create", "big", "--size", "1TiB")["size"] == 1 << 40
    assert verbs("show", "big")["latest"]["lsn"] == 0
    used = sum(path.stat().st_blocks for path in verbs.store.rglob("*")) * 512
    assert used < 64 * MIB


def test_both_tell_the_same(history: list[tuple[int, bytes]], store: Path) -> None:
    questions = (("list",), ("show", "disk"), ("log", "disk"), ("verify", "disk"))
    cdp = Cdp(store)
    cdp("bookmark", "disk", "here", "--at", f"lsn:{history[1][0]}")
    direct = [cdp(*words) for words in questions]
    with Daemon(store):
        served = [cdp(*words) for words in questions]
    for answers in (direct, served):
        # What a writer of its own changes: it is open, in a new epoch, with another segment.
        for key in ("status", "open", "faults"):
            answers[1].pop(key)
        answers[1]["retention"].pop("space")
    assert served == direct


def test_bookmarks(history: list[tuple[int, bytes]], told: Cdp, store: Path) -> None:
    lsn = history[1][0]
    made = told("bookmark", "disk", "before", "--at", f"lsn:{lsn}")
    assert made["lsn"] == lsn
    assert "already" in refusal(told, 2, "bookmark", "disk", "before")
    assert told("bookmark", "disk", "before", "--at", "oldest", "--force")["lsn"] == 0
    assert told("bookmark", "disk", "now")["lsn"] >= history[-1][0]
    assert [mark["name"] for mark in told("show", "disk")["bookmarks"]] == ["before", "now"]
    assert told("bookmark", "disk", "again", "--at", "bookmark:before")["lsn"] == 0
    told("bookmark", "disk", "--remove", "before")
    assert "no bookmark" in refusal(told, 3, "bookmark", "disk", "--remove", "before")
    assert "no bookmark" in refusal(told, 3, "bookmark", "disk", "x", "--at", "bookmark:before")
    refusal(told, 2, "bookmark", "disk", "not/a/name")


def test_bookmarks_outlive_their_daemon(history: list[tuple[int, bytes]], store: Path) -> None:
    daemon = Daemon(store).start()
    daemon.cdp("bookmark", "disk", "kept", "--at", f"lsn:{history[2][0]}")
    daemon.kill()
    assert [(m["name"], m["lsn"]) for m in Cdp(store)("show", "disk")["bookmarks"]] == [("kept", history[2][0])]
    with Daemon(store) as again:
        assert get(again.uri("disk", "bookmark:kept")) == history[2][1]


def test_the_log_is_one_timeline(history: list[tuple[int, bytes]], told: Cdp) -> None:
    told("bookmark", "disk", "middle", "--at", f"lsn:{history[2][0]}")
    log = told("log", "disk", "--flush-points")
    assert log["since"]["lsn"] == 0
    assert sum(row["data_records"] for row in log["intervals"]) == 3
    assert sum(row["raw_bytes"] for row in log["intervals"]) == 3 * MIB
    assert {flush["lsn"] for flush in log["flush_points"]} >= {lsn for lsn, _ in history[1:]}
    assert sum(row["flush_points"] for row in log["intervals"]) == len(log["flush_points"])
    assert [mark["name"] for mark in log["bookmarks"]] == ["middle"]
    (whole,) = told("log", "disk", "--interval", "36525d")["intervals"]
    # Each write lies by half over the one before.
    assert (whole["data_records"], whole["raw_bytes"], whole["overwritten_bytes"]) == (3, 3 * MIB, MIB)
    part = told("log", "disk", "--since", f"lsn:{history[1][0]}", "--until", f"lsn:{history[2][0]}", "--flush-points")
    assert [flush["lsn"] for flush in part["flush_points"]] == [history[2][0]]
    assert told("log", "disk", "--since", "@0", "--until", "2100-01-01T00:00:00Z")["since"]["lsn"] == 0
    printed = told.run("log", "disk").stdout
    assert "3 writes (3 MiB, " in printed
    assert "bookmark  middle" in printed
    assert "no interval" in refusal(told, 2, "log", "disk", "--interval", "1w")


@pytest.mark.parametrize("when", ["lsn:999999999", "@5", "2100-01-01T00:00:00Z", "-9000d", "bookmark:none"])
def test_a_refusal_names_what_can_be_reached(told: Cdp, tmp_path: Path, when: str) -> None:
    said = refusal(told, 3, "restore", "disk", "--at", when, "--to", str(tmp_path / "x"))
    shown = told("show", "disk")
    for end in (shown["oldest"], shown["latest"]):
        assert f"lsn:{end['lsn']} ({end['time']})" in said
    assert not (tmp_path / "x").exists()


def test_looking_writes_nothing(history: list[tuple[int, bytes]], store: Path, tmp_path: Path) -> None:
    cdp = Cdp(store)
    before = files_of(store)
    if subprocess.run(["mount", "--bind", store, store], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
        look(cdp, history, tmp_path)
        assert "Read-only file system" in refusal(cdp, 8, "rename", "disk", "x")
        assert "Read-only file system" in refusal(cdp, 8, "delete", "disk")
    finally:
        subprocess.run(["umount", store], check=True)
    assert files_of(store) == before


def test_looking_at_what_a_crash_left_writes_nothing(store: Path, tmp_path: Path) -> None:
    daemon = Daemon(store).start()
    daemon.cdp("create", "disk", "--size", "1MiB")
    data = content(MIB, "crash")
    put(daemon.uri("disk"), 0, data, flush=False)
    lsn = latest(daemon.cdp)
    daemon.kill()
    before = files_of(store)
    look(Cdp(store), [(0, bytes(MIB)), (lsn, data)], tmp_path)
    assert files_of(store) == before


def look(cdp: Cdp, history: list[tuple[int, bytes]], folder: Path) -> None:
    cdp("list")
    cdp("show", "disk")
    cdp("log", "disk")
    cdp("verify", "disk")
    for number, (lsn, expected) in enumerate(history):
        cdp("restore", "disk", "--at", f"lsn:{lsn}", "--to", folder / f"look{number}", "--verify")
        assert (folder / f"look{number}").read_bytes() == expected


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def test_verify_names_the_damage(told: Cdp, store: Path) -> None:
    assert told("verify", "disk")["findings"] == []
    segment = min(store.glob("volumes/*/segment-*"))
    flip(segment, 100_000)
    done = told.run("verify", "disk", "--json", exit_code=7)
    findings = json.loads(done.stdout)["findings"]
    assert {finding["file"] for finding in findings} == {str(segment)}
    assert segment.name in told.run("verify", "disk", exit_code=7).stdout


def test_verify_takes_a_rate(told: Cdp) -> None:
    for rate in ("200MiB/s", "1MiB", "max"):
        assert told("verify", "disk", "--rate", rate)["findings"] == []
    assert "too few" in refusal(told, 2, "verify", "disk", "--rate", "5")
    assert "no size" in refusal(told, 2, "verify", "disk", "--rate", "fast")


def test_damage_that_the_daemon_finds_is_on_the_timeline_once(daemon: Daemon, store: Path) -> None:
    cdp = daemon.cdp
    cdp("create", "disk", "--size", "4MiB")
    data = content(MIB, "damaged")
    put(daemon.uri("disk"), 0, data)
    lsn = latest(cdp)
    (segment,) = (path for path in store.glob("volumes/*/segment-*") if data[:4096] in path.read_bytes())
    flip(segment, segment.read_bytes().index(data[:4096]) + 5)
    for _ in range(2):
        assert "the live volume" in cdp.run("verify", "disk", exit_code=7).stdout
    put(daemon.uri("disk"), 0, data)
    assert "the live volume does not" in cdp.run("verify", "disk", exit_code=7).stdout
    told = cdp("log", "disk")["events"]
    (damage,) = [event for event in told if event["event"] == "damage"]
    assert damage["details"]["offset"] == 0
    assert damage["details"]["lsn"] <= lsn
    assert [event["details"]["findings"] for event in told if event["event"] == "verified"] == [1, 1, 1]
    assert f"lsn=lsn:{damage['details']['lsn']}" in cdp.run("log", "disk").stdout


def test_verify_tells_of_a_damaged_description(told: Cdp, store: Path) -> None:
    (copy,) = store.glob("volumes/*/volume.1")
    copy.write_bytes(b"")
    assert "volume.1" in told.run("verify", "disk", exit_code=7).stdout


@pytest.mark.parametrize("files", ["volume.?", "manifest.?"])
def test_a_damaged_volume_takes_nobody_along(verbs: Cdp, store: Path, tmp_path: Path, files: str) -> None:
    broken = verbs("create", "broken", "--size", "1MiB")["id"]
    verbs("create", "whole", "--size", "1MiB")
    for path in (store / "volumes" / broken).glob(files):
        path.write_bytes(b"\xff" * 4096)
    assert "whole" in [it["name"] for it in verbs("list")]
    shown = verbs("show", broken)
    assert shown["faults"] or shown["volume"]["problems"]
    assert verbs.run("verify", broken, exit_code=7).stdout
    verbs("bookmark", "whole", "fine")
    verbs("restore", "whole", "--at", "latest", "--to", tmp_path / "whole")
    verbs("delete", broken, "--now")
    assert [it["name"] for it in verbs("list")] == ["whole"]


def test_a_descriptor_that_is_not_there(store: Path) -> None:
    assert "no open descriptor" in Cdp(store).run("serve", "--ready-fd", "77", exit_code=2).stderr


def test_one_daemon_a_store(daemon: Daemon) -> None:
    said = daemon.cdp.run("serve", exit_code=4).stderr
    assert str(daemon.pid) in said
    assert daemon.cdp("list") == []


def test_a_new_daemon_takes_over_from_a_killed_one(store: Path) -> None:
    daemon = Daemon(store).start()
    daemon.cdp("create", "disk", "--size", "1MiB")
    daemon.kill()
    assert (store / "control.sock").is_socket()
    assert [it["name"] for it in Cdp(store)("list")] == ["disk"]
    with daemon.start():
        put(daemon.uri("disk"), 0, b"x" * 512)
    assert sorted(path.name for path in store.iterdir()) == ["daemon.lock", "volumes"]


def test_the_sockets_are_their_owners(daemon: Daemon, store: Path) -> None:
    for name in ("control.sock", "nbd.sock"):
        assert stat.S_IMODE((store / name).stat().st_mode) == 0o600


def test_sigint_is_a_clean_end_as_well(store: Path) -> None:
    daemon = Daemon(store).start()
    daemon.cdp("create", "disk", "--size", "1MiB")
    put(daemon.uri("disk"), 0, b"x" * 512)
    os.kill(daemon.pid, signal.SIGINT)
    assert daemon.wait() == 0
    assert Cdp(store)("show", "disk")["status"]["clean"] is True


def test_a_daemon_that_does_not_answer(daemon: Daemon, store: Path) -> None:
    daemon.cdp("create", "disk", "--size", "1MiB")
    put(daemon.uri("disk"), 0, b"x" * 512)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        assert [it["name"] for it in daemon.cdp("list")] == ["disk"]
        for words in (("bookmark", "disk", "b"), ("delete", "disk"), ("delete", "disk", "--now")):
            refusal(daemon.cdp, 4, *words)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    daemon.cdp("bookmark", "disk", "b")


def test_a_volume_in_use_is_not_deleted(daemon: Daemon) -> None:
    daemon.cdp("create", "disk", "--size", "1MiB")
    for when in (None, "latest"):
        with connected(daemon.uri("disk", when)) as client:
            assert daemon.cdp("show", "disk")["uses"] == 1
            assert "1 session" in refusal(daemon.cdp, 4, "delete", "disk")
            assert "1 session" in refusal(daemon.cdp, 4, "delete", "disk", "--now")
            assert client.pread(512, 0) == bytes(512)
        _until_unused(daemon)
    daemon.cdp("delete", "disk")


def _until_unused(daemon: Daemon) -> None:
    # The client's goodbye is handled by another thread than the one that answers us: ask until it is done.
    deadline = time.monotonic() + 30
    while daemon.cdp("show", "disk")["uses"]:
        assert time.monotonic() < deadline


def test_a_client_goes_on_through_a_rename(daemon: Daemon) -> None:
    daemon.cdp("create", "disk", "--size", "1MiB")
    with connected(daemon.uri("disk")) as client:
        daemon.cdp("rename", "disk", "disc")
        client.pwrite(b"y" * 512, 0)
    assert get(daemon.uri("disc"))[:512] == b"y" * 512


def exports(daemon: Daemon) -> list[str]:
    done: Any = json.loads(
        subprocess.run(
            ["nbdinfo", "--list", "--json", f"nbd+unix:///?socket={daemon.socket}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    return [export["export-name"] for export in done["exports"]]


def test_every_volume_is_an_export_and_no_deleted_one(daemon: Daemon) -> None:
    for name in ("a", "b", "c"):
        daemon.cdp("create", name, "--size", "1MiB")
    daemon.cdp("delete", "b")
    assert exports(daemon) == ["a", "c"]


def test_multi_conn_is_promised_for_what_does_not_move(daemon: Daemon) -> None:
    daemon.cdp("create", "disk", "--size", "1MiB")
    put(daemon.uri("disk"), 0, b"x" * 512)
    daemon.cdp("bookmark", "disk", "b")
    promised = {}
    now = time.time_ns()
    for when in (None, "latest", "oldest", "-0s", "lsn:0", "bookmark:b", f"@{now // 10**9}.{now % 10**9:09d}"):
        with connected(daemon.uri("disk", when)) as client:
            promised[when] = client.can_multi_conn()
            assert client.is_read_only() is (when is not None)
    assert [when for when, promise in promised.items() if not promise] == ["latest", "oldest", "-0s"]


def test_a_bookmark_that_moves_does_not_move_under_its_readers(daemon: Daemon) -> None:
    daemon.cdp("create", "disk", "--size", "1MiB")
    daemon.cdp("bookmark", "disk", "b")
    put(daemon.uri("disk"), 0, b"x" * 512)
    with connected(daemon.uri("disk", "bookmark:b")) as first:
        daemon.cdp("bookmark", "disk", "b", "--force")
        with connected(daemon.uri("disk", "bookmark:b")) as second:
            assert first.pread(512, 0) == second.pread(512, 0) == bytes(512)
    daemon.cdp.run("show", "disk")
    _until_unused(daemon)
    assert get(daemon.uri("disk", "bookmark:b"))[:512] == b"x" * 512
