"""Hostile clients: the others' requests all succeed, newcomers get in, memory, descriptors and the log stay bounded, and nothing of it is left.

How long the others wait meanwhile is measured by `python -m benchmarks.hostile`.
"""

from __future__ import annotations

import random
import resource
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.procfs import peak_memory_bytes, reset_peak_memory
from cdp.control.client import RemoteStore
from tests.hostile.attacks import ATTACKS
from tests.hostile.driver import END_SECONDS, Place, Sampler, attacked, connected, descriptors, place

MIB = 1 << 20
DISK_BYTES = 64 * MIB
LANE_BYTES = 4 * MIB
"""What a victim reads and writes; attackers write elsewhere, if at all."""
ROUNDS = 500
SESSIONS = 400
MEMORY_BYTES_MAX = 400 * MIB
"""64 MiB of payloads, as much for writes that wait, 32 KiB in each direction and with TLS 224 KiB for each of 400 sessions, the index, and the daemon itself."""
LOG_BYTES_MAX = 16 << 10
POLL_SECONDS = 0.02
CONFIGURATION = f"""
[limits]
sessions = {SESSIONS}
memory_bytes = "64MiB"
stall_seconds = 2.0
"""


class Victim:
    """A client that reads and writes as any does, in a thread, and compares what it reads."""

    def __init__(self, uri: str) -> None:
        self._handle = connected(uri)
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None
        self._end = threading.Event()
        self._changed = threading.Condition()
        self._done = 0
        self._rng = random.Random(uri)

    def _run(self) -> None:
        try:
            disk = bytearray(self._handle.pread(LANE_BYTES, DISK_BYTES - LANE_BYTES))
            while not self._end.is_set():
                self._round(disk)
                with self._changed:
                    self._done += 1
                    self._changed.notify_all()
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _round(self, disk: bytearray) -> None:
        rng = self._rng
        length = rng.choice([512, 4096, 65536])
        offset = rng.randrange(LANE_BYTES - length)
        data = rng.randbytes(length)
        self._handle.pwrite(data, DISK_BYTES - LANE_BYTES + offset)
        disk[offset : offset + length] = data
        offset = rng.randrange(LANE_BYTES - length)
        assert self._handle.pread(length, DISK_BYTES - LANE_BYTES + offset) == disk[offset : offset + length]

    def works(self) -> None:
        """Waits until it wrote and read so many times more."""
        with self._changed:
            enough = self._done + ROUNDS
            self._changed.wait_for(lambda: self._failure is not None or self._done >= enough)
            if self._failure is not None:
                raise self._failure

    def __enter__(self) -> Victim:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._handle.shutdown()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="cdp-"))
    try:
        configuration = folder / "cdp.toml"
        configuration.write_text(CONFIGURATION)
        with place(folder / "site", request.param, DISK_BYTES, (f"--config={configuration}",)) as made:
            yield made
    finally:
        shutil.rmtree(folder)


@contextmanager
def bounded(here: Place) -> Iterator[None]:
    """What the daemon takes inside is bounded, and given back after."""
    pid, said, before = here.daemon.pid, len(here.daemon.log), descriptors(here.daemon.pid)
    reset_peak_memory(pid)
    with Sampler(pid) as sampler:
        yield
    log = here.daemon.log[said:]
    assert peak_memory_bytes(pid) < MEMORY_BYTES_MAX
    assert sampler.most < before + SESSIONS + 256
    assert len(log) < LOG_BYTES_MAX, log[-2000:]
    assert "Traceback" not in log
    # Of those that are gone; what stalls is cut later.
    while descriptors(pid) > before + 32:
        time.sleep(POLL_SECONDS)


UNIX = ("half-open", "dribble", "garbage", "giant", "curious", "deaf", "half-sent", "crowd", "flood")
TCP = ("half-open", "deaf", "half-sent", "flood")
TLS = ("half-tls", "garbage", "deaf", "crowd")
"""What another transport does otherwise."""


@pytest.mark.parametrize(
    ("site", "attack"),
    [(way, attack) for way, attacks in (("unix", UNIX), ("tcp", TCP), ("tls", TLS)) for attack in attacks],
    indirect=["site"],
)
def test_others_are_served_as_ever(site: Place, attack: str) -> None:
    with bounded(site), ExitStack() as stack:
        victim = stack.enter_context(Victim(site.uri))
        stack.enter_context(attacked(site, attack, "--ready-seconds=1"))
        victim.works()
        newcomer = connected(site.uri)
        assert len(newcomer.pread(4096, 0)) == 4096
        newcomer.shutdown()
        victim.works()


def test_one_peer_does_not_get_all_sessions(store: Path) -> None:
    configuration = store.parent / "cdp.toml"
    configuration.write_text(CONFIGURATION)
    most = SESSIONS - SESSIONS // 4
    with place(store / "site", "unix", DISK_BYTES, (f"--config={configuration}",)) as here:
        with closing(RemoteStore(here.daemon.store)) as control, attacked(here, "crowd", "--ready-seconds=0"):
            while control.health().sessions < most:
                assert here.daemon.running
            newcomer = connected(here.uri)
            assert len(newcomer.pread(4096, 0)) == 4096
            assert control.health().sessions == most + 1
            newcomer.shutdown()
        assert f"you have {most} sessions, the most that one client may" in here.daemon.log


def test_every_attack_is_tried() -> None:
    assert set(UNIX) | set(TCP) | set(TLS) == ATTACKS.keys()


def test_the_last_descriptors_are_the_volumes(store: Path) -> None:
    """With 256 in all, clients get half of them: a crowd takes none that writing needs."""
    configuration = store.parent / "cdp.toml"
    configuration.write_text(CONFIGURATION)
    limit = ("prlimit", "--nofile=256:256")
    with place(store / "site", "unix", DISK_BYTES, (f"--config={configuration}",), limit) as here:
        with Victim(here.uri) as victim, Sampler(here.daemon.pid) as sampler:
            with attacked(here, "crowd", "--ready-seconds=1"):
                victim.works()
            assert sampler.most < 160
            victim.works()
        assert "turned a client away: 128 descriptors are in use" in here.daemon.log
        assert len(here.daemon.log) < LOG_BYTES_MAX
        connected(here.uri).shutdown()


def test_accepting_goes_on_when_there_are_descriptors_again(store: Path) -> None:
    with place(store / "site", "unix", DISK_BYTES) as here:
        connected(here.uri).shutdown()
        pid = here.daemon.pid
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid), usual[1]))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(here.daemon.socket))
            deadline = time.monotonic() + END_SECONDS
            while "no client can be let in at this moment: Too many open files" not in here.daemon.log:
                assert here.daemon.running
                assert time.monotonic() < deadline
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
            assert client.recv(8) == b"NBDMAGIC"
