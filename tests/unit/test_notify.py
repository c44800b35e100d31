"""What a service manager is told, on a socket of its own; and the unit files, as far as they can be checked without one."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp.notify import Notifier
from tests.rig.cdp import CDP, ROOT, environment

UNIT = ROOT / "packaging" / "systemd" / "cdp.service"


@pytest.fixture
def manager(store: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(store / "notify"))
        listening.settimeout(30)
        yield listening


def test_messages_are_those_of_the_protocol(manager: socket.socket) -> None:
    variables = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(variables)
    assert variables == {}, "what the daemon starts does not speak for it"
    assert notifier.watchdog_seconds == 2
    notifier.ready("1 session")
    assert manager.recv(999).decode().splitlines() == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=1 session"]
    notifier.alive("busy")
    assert manager.recv(999) == b"WATCHDOG=1\nSTATUS=busy"
    notifier.stopping(1.5)
    assert manager.recv(999).decode().splitlines()[:2] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000"]


def test_abstract_sockets_and_nobody(store: Path) -> None:
    name = f"cdp-test-{store.parent.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        Notifier({"NOTIFY_SOCKET": "@" + name}).alive("x")
        assert listening.recv(99).startswith(b"WATCHDOG=1")
    # Gone, absent, or too long a name: nothing happens.
    for variables in ({"NOTIFY_SOCKET": "@" + name}, {}, {"NOTIFY_SOCKET": "/" + "x" * 200}):
        Notifier(variables).ready("x")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "1000"},
    ],
)
def test_nobody_watches(variables: dict[str, str]) -> None:
    socket_ = {} if variables == {"WATCHDOG_USEC": "1000"} else {"NOTIFY_SOCKET": "@x"}
    assert Notifier({**socket_, **variables}).watchdog_seconds is None


def test_an_end_that_hangs_is_ended() -> None:
    program = "import threading; from cdp.daemon import end_at_once; threading.Timer(0, end_at_once, (1,)).start(); threading.Event().wait()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, b"still not stopped" in done.stderr) == (8, True)


def _unit(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def test_the_unit_runs_commands_that_there_are() -> None:
    service = _unit(UNIT)["Service"]
    for key in ("ExecStart", "ExecStartPre"):
        program, *words = shlex.split(service[key])
        assert program == "/usr/local/bin/cdp"
        verb = [word for word in words if not word.startswith(("-", "/"))]
        done = subprocess.run([*CDP, *verb, "--help"], env=environment(), capture_output=True, text=True, check=True)
        assert all(word in done.stdout for word in words if word.startswith("--"))
    assert float(service["TimeoutStopSec"]) >= 5 + 60 + 10, "the defaults of [limits], and the daemon's own margin"


def test_the_drop_in_changes_what_the_unit_sets() -> None:
    unit, drop_in = _unit(UNIT)["Service"], _unit(UNIT.parent / "cdp.service.d" / "attach.conf")["Service"]
    assert drop_in.keys() - unit.keys() == {"KillMode", "RuntimeDirectoryPreserve"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    shutil.copytree(UNIT.parent, tmp_path / "units")
    unit = tmp_path / "units" / "cdp.service"
    unit.write_text(unit.read_text().replace("/usr/local/bin/cdp", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    about = [line for line in (done.stdout + done.stderr).splitlines() if "cdp.service" in line]
    assert (done.returncode, about) == (0, [])
