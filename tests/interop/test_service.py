"""The daemon as a service: its configuration file, its log, its sockets' owners, and volumes that fail alone."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

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
        assert states == {"whole": "ok", "broken": "ok", ids["headless"]: "damaged"}
        told = [event for event in log_lines(daemon) if event.get("volume") == "broken"]
        assert len(told) == 1, "the same cause is told once"
        assert "cannot be opened" in told[0]["message"]
        # `with` ends with SIGTERM and exit code 0: nothing of the damage is left for the others.
