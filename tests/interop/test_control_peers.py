"""Who connects to the control socket decides what may be done there, whoever else its mode lets in."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rig.daemon import Daemon

NOBODY = 65534
STOREKEEPER = 54321

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as others")


@pytest.fixture
def open_to_all(store: Path) -> Iterator[Daemon]:
    """Whose control socket anybody may connect to, over a store that belongs to somebody."""
    (store / "cdp.toml").write_text("[control]\nmode = '0666'\n")
    os.chown(store, STOREKEEPER, STOREKEEPER)
    store.chmod(0o755)
    with Daemon(store) as daemon:
        daemon.cdp("create", "disk", "--size", "1MiB")
        yield daemon


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def ask(daemon: Daemon, uid: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON of one request on a connection that `uid` made."""
    folder = os.open(daemon.store, os.O_PATH)
    client = http.client.HTTPConnection("cdp", timeout=60)
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.settimeout(60)
    try:
        with acting_as(uid):
            # The folders above are the test's own.
            client.sock.connect(f"/proc/self/fd/{folder}/control.sock")
        client.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = client.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        client.close()
        os.close(folder)


@pytest.mark.parametrize("uid", [0, STOREKEEPER])
def test_root_and_the_stores_owner_may_change(open_to_all: Daemon, uid: int) -> None:
    status, made = ask(open_to_all, uid, "POST", "/v1/volumes", {"name": "other", "size": 1 << 20})
    assert (status, made["name"]) == (201, "other")
    assert ask(open_to_all, uid, "DELETE", "/v1/volumes/other")[0] == 200


def test_others_may_look(open_to_all: Daemon) -> None:
    status, listed = ask(open_to_all, NOBODY, "GET", "/v1/volumes")
    assert (status, [one["name"] for one in listed]) == (200, ["disk"])
    assert ask(open_to_all, NOBODY, "GET", "/v1/health")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/volumes", {"name": "other", "size": 1 << 20}),
        ("DELETE", "/v1/volumes/disk", None),
        ("POST", "/v1/volumes/disk/rollback", {"to": "oldest"}),
        ("POST", "/v1/volumes/disk/retention", {"settings": {"every_write": "0"}}),
        ("POST", "/v1/volumes/disk/compact", None),
        ("GET", "/v1/volumes/disk/hold?lsn=0", None),
        ("GET", "/v1/volumes/%64isk/hol%64?lsn=0", None),
        ("PATCH", "/v1/volumes", None),
    ],
)
def test_others_change_nothing(open_to_all: Daemon, method: str, path: str, body: object) -> None:
    status, answer = ask(open_to_all, NOBODY, method, path, body)
    assert status == 403
    assert answer == {"kind": "Invalid", "message": "user 65534 may look at this store, and change nothing in it"}
    assert [one["name"] for one in open_to_all.cdp("list")] == ["disk"]
