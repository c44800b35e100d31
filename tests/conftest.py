"""Fixtures for every test: a store on a real disk, the daemon over it, the command line, and the seed of a random test.

A random test takes its randomness from `rng` (or hypothesis) alone; when it fails, the report ends with the command that repeats it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.rig.cdp import Cdp
from tests.rig.daemon import Daemon, Transport

SEED_KEY = pytest.StashKey[int]()

# No deadline: two busy cores make any single example slow. The blob repeats a failure that the local database cannot (in CI).
hypothesis.settings.register_profile("cdp", deadline=None, print_blob=True)
hypothesis.settings.load_profile("cdp")

# A shell that runs the tests in the background ignores SIGINT, and everything that they start would inherit that: interrupts are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of whatever the tests start: nothing is left in the user's."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture
def store() -> Iterator[Path]:
    """An empty folder for a store. Not under tmp_path: a Unix socket's path has 107 bytes, and test names are long."""
    folder = Path(tempfile.mkdtemp(prefix="cdp-"))
    try:
        made = folder / "store"
        made.mkdir()
        yield made
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def cdp(store: Path) -> Cdp:
    """The command line over `store`: `cdp("create", "disk", "--size", "64MiB")` returns its parsed JSON."""
    return Cdp(store)


@pytest.fixture
def daemon(store: Path) -> Iterator[Daemon]:
    """A running daemon over `store`, on a Unix socket and on TCP. It must end cleanly unless the test ended it itself."""
    served = Daemon(store).start()
    try:
        yield served
        if served.running:
            served.stop()
    finally:
        if served.running:
            served.kill()


@pytest.fixture(params=["unix", "tcp"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Runs the test once over each transport."""
    chosen: Transport = request.param
    return chosen


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A new seed a run, or the one in CDP_SEED. A failure's report names it."""
    chosen = int(os.environ.get("CDP_SEED") or random.SystemRandom().getrandbits(32))
    request.node.stash[SEED_KEY] = chosen
    return chosen


@pytest.fixture
def rng(seed: int) -> random.Random:
    """All randomness of a test that is not hypothesis's."""
    return random.Random(seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and SEED_KEY in item.stash:
        again = f"CDP_SEED={item.stash[SEED_KEY]} .venv/bin/python -m pytest '{item.nodeid}'"
        report.sections.append(("repeat with", again))
    return report
