"""A disk that is really full: a small one of its own under the store, and NBD clients that write more than it holds.

Under each policy: what was replied to is there, before and after a stop or a kill; space that comes back lets the writes go on, without a restart.
"""

from __future__ import annotations

import errno
import itertools
import os
import queue
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import nbd
import pytest

from tests.rig.daemon import Daemon
from tests.rig.disk import connected
from tests.rig.small_disk import NoDisk, leave, small_disk

MIB = 1 << 20
DISK_BYTES = 128 * MIB
FILLER = "lost+found/filler"
ROOM = 64 * MIB
VOLUME_BYTES = 256 * MIB
BLOCK = 256 << 10
LANES = 3
PATIENCE_SECONDS = 90.0
"""A bound for a hang, never a measure."""

LONG = pytest.mark.long
WAITS = [
    ("kill", "stall"),
    pytest.param("kill", "drop-oldest", marks=LONG),
    *(pytest.param(end, policy, marks=LONG) for end in ("stop", "none") for policy in ("stall", "drop-oldest")),
]
"""How the server ends while writes wait, and the policy. Without a privilege, and in seconds, the first one says most."""


def payload(block: int, round_: int = 0) -> bytes:
    """The content of a block: does not shrink, and repeats."""
    return random.Random(f"{block} {round_}").randbytes(BLOCK)


@pytest.fixture(params=["tmpfs", *(pytest.param(kind, marks=LONG) for kind in ("ext4", "xfs", "btrfs"))])
def cramped(request: pytest.FixtureRequest, store: Path) -> Iterator[Path]:
    """A store on a disk of its own, of which a file leaves `ROOM`."""
    with ExitStack() as cleanup:
        try:
            disk = cleanup.enter_context(small_disk(request.param, DISK_BYTES, store))
        except NoDisk as none:
            # The one that takes no privilege is there in CI: a promise that nobody proves is none.
            if request.param == "tmpfs" and os.environ.get("CI"):
                raise
            pytest.skip(str(none))
        filler = disk / FILLER
        filler.parent.mkdir(exist_ok=True)
        leave(filler, ROOM)
        yield disk


@pytest.fixture
def served(cramped: Path) -> Iterator[Daemon]:
    with Daemon(cramped) as daemon:
        daemon.cdp("create", "disk", "--size", str(VOLUME_BYTES))
        yield daemon


class Writers:
    """Clients that write blocks of their own, each over one connection, until told to stop; what was replied to is in `done`: block to round."""

    def __init__(self, uri: str, blocks: Callable[[int], Iterator[tuple[int, int]]]) -> None:
        self.done: dict[int, int] = {}
        self.refused: queue.SimpleQueue[nbd.Error] = queue.SimpleQueue()
        self.news = threading.Semaphore(0)
        self._uri = uri
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[blocks(lane)], daemon=True) for lane in range(LANES)]
        for thread in self._threads:
            thread.start()

    def _run(self, blocks: Iterator[tuple[int, int]]) -> None:
        with suppress(nbd.Error), connected(self._uri) as handle:
            for block, round_ in blocks:
                if self._stop.is_set():
                    return
                try:
                    handle.pwrite(payload(block, round_), block * BLOCK)
                except nbd.Error as error:
                    self.refused.put(error)
                    return
                self.done[block] = round_
                self.news.release()

    def wait_for(self, writes: int) -> None:
        """Until so many more writes were replied to."""
        for _ in range(writes):
            assert self.news.acquire(timeout=PATIENCE_SECONDS), "no write was replied to"

    def wait_refused(self) -> list[int]:
        """Until every client was refused; the errnos."""
        return [self.refused.get(timeout=PATIENCE_SECONDS).errnum for _ in range(LANES)]

    def end(self) -> dict[int, int]:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), "a client still waits"
        return self.done


def once_each(first: int = 0) -> Callable[[int], Iterator[tuple[int, int]]]:
    return lambda lane: ((block, 0) for block in range(first + lane, VOLUME_BYTES // BLOCK, LANES))


def over_and_over(blocks: int) -> Callable[[int], Iterator[tuple[int, int]]]:
    return lambda lane: ((block, round_) for round_ in itertools.count() for block in range(lane, blocks, LANES))


def check(daemon: Daemon, done: dict[int, int]) -> None:
    """What was replied to can be read."""
    with connected(daemon.uri("disk")) as handle:
        for block, round_ in sorted(done.items()):
            assert bytes(handle.pread(BLOCK, block * BLOCK)) == payload(block, round_), f"block {block}"


def until(daemon: Daemon, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Asks until it holds."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_SECONDS / 0.2)):
        facts: dict[str, Any] = daemon.cdp("retention", "disk")
        if holds(facts):
            return facts
        pause.wait(0.2)
    raise AssertionError(f"it never came to that: {facts}")


def is_stalled(facts: dict[str, Any]) -> bool:
    return bool(facts["condition"] == "stalled")


def verified(daemon: Daemon) -> None:
    assert not daemon.cdp("verify", "disk")["findings"]


@pytest.mark.parametrize(("end", "policy"), WAITS)
def test_writes_wait_for_the_disk_and_go_on_when_it_has_room(
    served: Daemon, cramped: Path, end: str, policy: str
) -> None:
    """All data is live, so there is no history to give up: both policies come to the same."""
    served.cdp("retention", "disk", "--full", policy)
    writers = Writers(served.uri("disk"), once_each())
    until(served, is_stalled)
    done = dict(writers.done)
    assert len(done) * BLOCK > 40 * MIB
    check(served, done)
    with connected(served.uri("disk")) as handle:
        handle.flush()
    served.cdp("bookmark", "disk", "full")
    if end == "none":
        (cramped / FILLER).unlink()
        writers.wait_for(LANES + 20)
    else:
        served.stop() if end == "stop" else served.kill()
        done = writers.end()
        served.start()
        check(served, done)
        writers = Writers(served.uri("disk"), once_each(2 * len(done)))
        until(served, is_stalled)
        check(served, done)
        (cramped / FILLER).unlink()
        writers.wait_for(20)
    done |= writers.end()
    until(served, lambda facts: facts["condition"] == "ok")
    check(served, done)
    verified(served)
    if policy == "stall":
        # The other one gives bookmarks up in the end, when nothing else is left.
        assert "full" in [mark["name"] for mark in served.cdp("show", "disk")["bookmarks"]]


def test_writes_fail_where_that_is_the_policy_and_go_on_when_there_is_room(served: Daemon, cramped: Path) -> None:
    served.cdp("retention", "disk", "--full", "fail")
    writers = Writers(served.uri("disk"), once_each())
    assert writers.wait_refused() == [errno.ENOSPC] * LANES
    done = writers.end()
    assert len(done) * BLOCK > 40 * MIB
    check(served, done)
    with connected(served.uri("disk")) as handle:
        handle.flush()
    (cramped / FILLER).unlink()
    for _ in range(int(PATIENCE_SECONDS)):
        writers = Writers(served.uri("disk"), once_each(2 * len(done)))
        if writers.news.acquire(timeout=1.0):
            break
        writers.end()
    writers.wait_for(20)
    done |= writers.end()
    check(served, done)
    verified(served)


def test_history_goes_where_that_is_the_policy_and_writes_never_end(
    request: pytest.FixtureRequest, served: Daemon, cramped: Path
) -> None:
    """The live data fits; what it takes is history, given up as the disk fills."""
    served.cdp("retention", "disk", "--full", "drop-oldest", "--minimum", "0")
    writers = Writers(served.uri("disk"), over_and_over(64))
    rooms = 8 if request.node.get_closest_marker("long") else 3
    writers.wait_for(rooms * ROOM // BLOCK)
    done = writers.end()
    facts = served.cdp("retention", "disk")
    assert facts["horizon"]["lsn"] > 0, facts
    check(served, done)
    verified(served)
    (cramped / FILLER).unlink()
    served.stop()
    served.start()
    check(served, done)
    verified(served)
