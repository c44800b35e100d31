"""The API against its own description: schemathesis makes requests of every kind, right and wrong, over TCP, and every answer is one that was described."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import trio
from fastapi import FastAPI
from hypercorn.config import Config
from hypercorn.trio import serve
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance

from cdp import _native
from cdp.control.api import control_app
from cdp.facts import HealthFacts
from cdp.metrics.families import DaemonCollector
from cdp.metrics.figures import Gatherer
from cdp.store import LocalStore
from cdp.table import Table

EXAMPLES = 12
"""For each way of the API, of right requests and of wrong ones: all together some ten seconds."""
NAMES = ("disk", "clone", "gone")


class Served:
    """The application on a loopback TCP port, in a thread."""

    def __init__(self, app: FastAPI) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # The server closes it: a second owner would close whatever got its number since.
        self._descriptor = listener.detach()
        self._stop = trio.Event()
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=trio.run, args=(self._run, app), name="api")
        self._thread.start()
        assert self._ready.wait(30)

    async def _run(self, app: FastAPI) -> None:
        self._token = trio.lowlevel.current_trio_token()
        config = Config()
        config.bind = [f"fd://{self._descriptor}"]
        config.graceful_timeout = 1
        config.loglevel = "WARNING"
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, app, config, shutdown_trigger=self._stop.wait))  # type: ignore[arg-type]
            self._ready.set()

    def close(self) -> None:
        assert self._token is not None
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def api_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    store = tmp_path_factory.mktemp("store")
    catalog = LocalStore(store).catalog
    table = Table(catalog)
    local = LocalStore(store, table, retention={})
    local.create("disk", 1 << 20, 4096, None)
    local.create("gone", 1 << 20, 4096, None)
    with table.writing(catalog.find("disk")) as volume:
        volume.native.write(0, b"x" * 4096)
    local.delete("gone", now=False)
    local.groups.create("group", ["disk"])
    native = _native.Server(workers=1)
    health = HealthFacts("0", 1, str(store), 0, (), 0, 0, 0, 0)
    metrics = DaemonCollector(Gatherer(catalog, table, native, 0, list).gather)
    served = Served(control_app(local, lambda: health, threading.Event(), metrics))
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    schema.hooks.hook("map_path_parameters")(_mostly_volumes)
    try:
        # A hold lasts as long as its client wants; tests/unit/test_control_api.py has it.
        yield schema.exclude(path_regex="/hold$")
    finally:
        served.close()
        native.stop(0)
        assert table.close() == []


def _mostly_volumes(_: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Random names mean no volume and no group, and would always be refused for that."""
    if parameters and "group" in parameters and len(str(parameters["group"])) % 4:
        parameters = {**parameters, "group": "group"}
    if parameters and "volume" in parameters:
        chosen = len(str(parameters["volume"])) % (len(NAMES) + 1)
        if chosen < len(NAMES):
            return {**parameters, "volume": NAMES[chosen]}
    return parameters


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
def test_every_answer_is_one_that_was_described(api_schema: Any, mode: GenerationMode) -> None:
    faults = [fault for way in api_schema.get_all_operations() if (fault := _fault(way.ok(), mode)) is not None]
    assert not faults, "\n\n".join(faults)


def _fault(way: Any, mode: GenerationMode) -> str | None:
    """What is wrong with the answers of one way of the API to random requests, and the request that shows it."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=way.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        # That something has the right type does not mean that there is such a volume, or such a time.
        case.call_and_validate(timeout=60, excluded_checks=[positive_data_acceptance])

    try:
        ask()
    except Unsatisfiable:
        return None  # No request of this way can be wrong.
    except FailureGroup as failures:
        return f"{way.method.upper()} {way.path}: {failures}"
    return None


def test_nothing_of_it_was_left_out(api_schema: Any) -> None:
    ways = {f"{way.ok().method.upper()} {way.ok().path}" for way in api_schema.get_all_operations()}
    assert {"POST /v1/volumes", "GET /metrics", "POST /v1/volumes/{volume}/resize"} <= ways


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path in a random request is looked for where nothing is."""
    monkeypatch.chdir(tmp_path)
