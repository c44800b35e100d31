"""The control API: typed answers, refusals as kind and message, and long work that ends when the daemon does."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from fastapi import FastAPI

from cdp.control.api import control_app
from cdp.facts import HealthFacts
from cdp.store import LocalStore

MIB = 1 << 20


class Api:
    """Asks the application, without a socket between."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def request(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://cdp/v1") as client:
                return await client.request(method, path, **request)

        return trio.run(ask)

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.request("GET", path, **request)

    def post(self, path: str, **request: Any) -> httpx.Response:
        return self.request("POST", path, **request)


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def api(store: Path, stopping: threading.Event) -> Api:
    health = HealthFacts("0", 1, str(store), 0, ("nbd://127.0.0.1:1",), 0, 0, 0, 0)
    local = LocalStore(store)
    local.catalog.ensure_store()
    return Api(control_app(local, lambda: health, stopping))


def test_health(api: Api, store: Path) -> None:
    assert api.get("/health").json()["store"] == str(store)


def test_a_volume(api: Api) -> None:
    made = api.post("/volumes", json={"name": "disk", "size": MIB})
    assert made.status_code == 201
    assert made.json()["block_size"] == 4096
    assert api.get("/volumes").json() == [made.json()]
    shown = api.get("/volumes/disk").json()
    assert shown["volume"] == made.json()
    assert api.get("/volumes/disk/instant", params={"at": "latest"}).json() == shown["latest"]
    mark = api.post("/volumes/disk/bookmarks", json={"name": "b"})
    assert (mark.status_code, mark.json()["lsn"]) == (201, 0)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/volumes/none", None, 404, "NotFound"),
        ("GET", "/nothing", None, 404, "NotFound"),
        ("PATCH", "/volumes", None, 405, "Invalid"),
        ("POST", "/volumes", {"name": "disk"}, 400, "Invalid"),
        ("POST", "/volumes", {"name": "disk", "size": "1MiB"}, 400, "Invalid"),
        ("POST", "/volumes", {"name": "disk", "size": MIB, "colour": "red"}, 400, "Invalid"),
        ("POST", "/volumes", {"name": "../disk", "size": MIB}, 400, "Invalid"),
        ("POST", "/volumes", {"name": "disk", "size": -512}, 400, "Invalid"),
        ("POST", "/volumes", [], 400, "Invalid"),
        ("GET", "/volumes/none/instant", None, 400, "Invalid"),
        ("GET", "/volumes/none/instant?at=soon", None, 400, "Invalid"),
        ("GET", "/volumes/none/log?since=lsn:0", None, 404, "NotFound"),
        ("DELETE", "/volumes/none?now=perhaps", None, 400, "Invalid"),
    ],
)
def test_refusals(api: Api, method: str, path: str, body: object, status: int, kind: str) -> None:
    answer = api.request(method, path, json=body)
    assert (answer.status_code, answer.json()["kind"]) == (status, kind)
    assert set(answer.json()) == {"kind", "message"}
    assert api.get("/volumes").json() == []


def test_a_body_that_is_no_json(api: Api) -> None:
    answer = api.post("/volumes", content=b"\xff{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["kind"]) == (400, "Invalid")


def test_verify_tells_of_its_progress(api: Api) -> None:
    api.post("/volumes", json={"name": "disk", "size": MIB})
    lines = [json.loads(line) for line in api.post("/volumes/disk/verify").text.splitlines()]
    assert lines[-1] == {"volume": "disk", "findings": [], "resumed_stamp": None}
    assert all(0 <= line["done"] <= line["total"] for line in lines[:-1])


def test_verify_of_nothing(api: Api) -> None:
    (line,) = api.post("/volumes/none/verify").text.splitlines()
    assert json.loads(line)["kind"] == "NotFound"


def test_verify_ends_when_the_daemon_stops(api: Api, stopping: threading.Event) -> None:
    api.post("/volumes", json={"name": "disk", "size": MIB})
    api.post("/volumes/disk/bookmarks", json={"name": "b"})
    stopping.set()
    lines = [json.loads(line) for line in api.post("/volumes/disk/verify").text.splitlines()]
    assert lines[-1] == {"kind": "Closed", "message": "the daemon is stopping"}


def test_the_api_describes_itself(api: Api) -> None:
    told = api.get("http://cdp/openapi.json").json()
    ids = [way["operationId"] for ways in told["paths"].values() for way in ways.values()]
    assert len(ids) == len(set(ids)) >= 25
    assert not any(name.startswith("_") for name in ids)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "volumes", rb'{"name":"a","origin":"/tmp/\u0000x"}'),
        ("POST", "volumes", rb'{"name":"a","origin":"/tmp/\ud800x"}'),
        ("POST", "volumes", rb'{"name":"a","origin":"nbd://127.0.0.1:1/\u0000"}'),
        ("POST", "volumes", rb'{"name":"\ud800","size":512}'),
        ("POST", "volumes", b'{"name":"a","size":' + b"9" * 5000 + b"}"),
        ("POST", "volumes", b"[" * 5000),
        ("POST", "volumes/disk/bookmarks", b'{"name":"x","expires_stamp":99999999999999999999999}'),
        ("POST", "volumes/disk/resize", b'{"size":-512}'),
        ("POST", "retention", b'{"budget":-1,"thin":true}'),
        ("POST", "retention", b'{"budget":99999999999999999999999,"thin":true}'),
        ("GET", "volumes/disk/hold?lsn=-1", None),
        ("GET", "volumes/disk/hold?lsn=99999999999999999999999", None),
        ("DELETE", "attachments?device=/dev/loop0%00", None),
    ],
)
def test_what_no_value_can_be_is_refused_in_words(api: Api, method: str, path: str, body: bytes | None) -> None:
    answer = api.request(method, path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["message"]
