"""The daemon as a service: its configuration file, its log, its sockets' owners, and volumes that fail alone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import httpx
import nbd
import pytest

from tests.rig.daemon import Daemon

MIB = 1 << 20


def connected(daemon: Daemon, export: str) -> nbd.NBD:
    client = nbd.NBD()
    client.connect_uri(daemon.uri(export))
    return client


def log_lines(daemon: Daemon) -> list[dict[str, Any]]:
    """The log as events; what the daemon says on standard output is left aside."""
    return [json.loads(line) for line in daemon.log.splitlines() if line.startswith("{")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_sockets_get_their_owner_group_and_mode(store: Path) -> None:
    (store / "cdp.toml").write_text("[nbd]\nmode = '0660'\ngroup = 12345\n[control]\nowner = 54321\n")
    with Daemon(store) as daemon:
        nbd_socket, control = daemon.socket.stat(), (store / "control.sock").stat()
        assert (stat.S_IMODE(nbd_socket.st_mode), nbd_socket.st_uid, nbd_socket.st_gid) == (0o660, 0, 12345)
        assert (stat.S_IMODE(control.st_mode), control.st_uid, control.st_gid) == (0o600, 54321, 0)
        assert daemon.cdp("list") == []


def test_options_stand_above_the_file(store: Path) -> None:
    file = store.parent / "other.toml"
    file.write_text(f"[nbd]\nlisten = ['unix:{store}/not-this.sock']\n[log]\nlevel = 'info'\n")
    with Daemon(store, options=("--config", str(file))) as daemon:
        assert daemon.socket.exists()
        assert not (store / "not-this.sock").exists()


def test_a_json_log_tells_of_sessions_with_their_volume(store: Path) -> None:
    (store / "cdp.toml").write_text("[log]\nlevel = 'info'\nformat = 'json'\n")
    with Daemon(store) as daemon:
        daemon.cdp("create", "disk", "--size", "1MiB")
        client = connected(daemon, "disk@latest")
        client.shutdown()
        daemon.stop()
        events = log_lines(daemon)
    began = next(event for event in events if "began" in event["message"])
    ended = next(event for event in events if "ended" in event["message"])
    assert (began["volume"], began["export"]) == ("disk", "disk@latest")
    assert (ended["volume"], ended["session"]) == ("disk", began["session"])
    assert all({"time", "level", "logger", "message"} <= event.keys() for event in events)


def test_a_damaged_volume_costs_the_others_nothing(store: Path) -> None:
    (store / "cdp.toml").write_text("[log]\nformat = 'json'\n")
    daemon = Daemon(store)
    ids = {name: daemon.cdp("create", name, "--size", "1MiB")["id"] for name in ("whole", "broken", "headless")}
    for manifest in (store / "volumes" / ids["broken"]).glob("manifest.*"):
        manifest.write_bytes(os.urandom(4096))
    for copy in (store / "volumes" / ids["headless"]).glob("volume.*"):
        copy.write_bytes(b"not a description\n")
    with daemon:
        for _ in range(2):
            with pytest.raises(nbd.Error):
                connected(daemon, "broken")
            with pytest.raises(nbd.Error):
                connected(daemon, "headless")
        client = connected(daemon, "whole")
        client.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_FUA)
        assert client.pread(4096, 0) == b"x" * 4096
        client.shutdown()
        states = {facts["name"] or facts["id"]: facts["state"] for facts in daemon.cdp("list")}
        assert states == {"whole": "ok", "broken": "failed", ids["headless"]: "damaged"}
        told = [event for event in log_lines(daemon) if event.get("volume") == "broken"]
        assert len(told) == 1, "the same cause is told once"
        assert "cannot be opened" in told[0]["message"]
        # `with` ends with SIGTERM and exit code 0: nothing of the damage is left for the others.


def test_a_service_manager_is_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(store.parent / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        with Daemon(store) as daemon:
            pid = daemon.pid
            told = [manager.recv(999).decode().splitlines() for _ in range(4)]
            daemon.stop()
        told += _drained(manager)
    kinds = [message[0] for message in told]
    assert kinds.count("READY=1") == kinds.count("STOPPING=1") == 1
    assert f"MAINPID={pid}" in told[kinds.index("READY=1")]
    assert kinds.count("WATCHDOG=1") >= 3, "the loop turns"
    assert kinds[-1] == "STOPPING=1"


def _drained(manager: socket.socket) -> list[list[str]]:
    """What has come: its sender is gone, so no more will."""
    manager.setblocking(False)
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(manager.recv(999).decode().splitlines())
    return told


def test_the_end_waits_for_no_long_check(store: Path) -> None:
    """One that would take hours: the daemon ends in order all the same, and closes the volume cleanly."""
    with Daemon(store) as daemon:
        daemon.cdp("create", "disk", "--size", "64MiB")
        client = connected(daemon, "disk")
        client.pwrite(os.urandom(4 * MIB), 0)
        client.flush()
        with (
            httpx.Client(transport=httpx.HTTPTransport(uds=str(store / "control.sock"))) as control,
            control.stream("POST", "http://cdp/v1/volumes/disk/verify", params={"rate": 1024}) as answer,
        ):
            next(answer.iter_lines())
            daemon.stop()
        assert daemon.cdp("show", "disk")["status"]["clean"] is True
