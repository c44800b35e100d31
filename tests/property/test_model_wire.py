"""A volume against a plain byte array, over the wire: after any history, every instant reads as it was, through each of the three readers.

A hypothesis state machine, because a failure that took sixty requests to appear is understood from the four that remain. One daemon serves all
examples (a start costs more than an example), each on a volume of its own; restarts and kills are rules like any other.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import nbd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from cdp import _native
from cdp.control.client import RemoteStore
from cdp.store import LocalStore
from cdp.when import AtLsn, Latest
from tests.property.model_volume import (
    Instant,
    Model,
    Piece,
    Sent,
    connect,
    instant_at,
    read_all,
    restored_by_salvage,
    restored_natively,
)
from tests.rig.daemon import Daemon

VOLUME_BYTES = (1 << 20) + 3 * 512
CONNECTIONS = 3
EXAMPLES = 10
STEPS = 50
INSTANTS = 20
"""Compared an example: 200 in all."""

_length = st.one_of(
    st.integers(1, 520),
    st.integers(1, 9000),
    st.integers(1, 200_000),
    st.sampled_from([512, 4096, 65536, 65537, 131072, VOLUME_BYTES]),
)
_offset = st.one_of(
    st.integers(0, VOLUME_BYTES - 1), st.integers(0, VOLUME_BYTES // 4096).map(lambda page: page * 4096)
)
_connection = st.integers(0, CONNECTIONS - 1)
_fua = st.sampled_from([0, 0, 0, nbd.CMD_FLAG_FUA])


def _content(length: int, seed: int) -> bytes:
    """By turns noise, text that shrinks, and zeros."""
    if seed % 8 == 0:
        return bytes(length)
    if seed % 2:
        return random.Random(seed).randbytes(length)
    line = b"%d lines of this " % seed
    return (line * (length // len(line) + 1))[:length]


class WireMachine(RuleBasedStateMachine):
    """One example: a new volume, requests on several connections, and at the end a look back at instants of all kinds."""

    daemon: Daemon
    compared = 0

    @initialize()
    def create(self) -> None:
        if not self.daemon.running:
            self.daemon.start()
        self.name = f"disk-{time.time_ns()}"
        self._control(lambda store: store.create(self.name, VOLUME_BYTES, 512, None))
        self.model = Model(VOLUME_BYTES)
        self.views: list[tuple[int, Any]] = []
        self._connect()

    def _connect(self) -> None:
        self.handles = [connect(self.daemon.uri(self.name)) for _ in range(CONNECTIONS)]

    def _control(self, verb: Callable[[RemoteStore], Any]) -> Any:
        store = RemoteStore(self.daemon.store)
        try:
            return verb(store)
        finally:
            store.close()

    def _timed(self, pieces: list[Piece], request: Callable[[], object]) -> None:
        before = time.time_ns()
        request()
        self.model.apply(pieces, Sent(before, time.time_ns()))

    @rule(connection=_connection, offset=_offset, length=_length, seed=st.integers(0, 1 << 16), fua=_fua)
    def write(self, connection: int, offset: int, length: int, seed: int, fua: int) -> None:
        content = _content(min(length, VOLUME_BYTES - offset), seed)
        self._timed([Piece(offset, content)], lambda: self.handles[connection].pwrite(content, offset, fua))

    @rule(
        connection=_connection,
        offset=_offset,
        length=_length,
        fua=_fua,
        how=st.sampled_from(["trim", "zero", "zero without hole"]),
    )
    def clear(self, connection: int, offset: int, length: int, fua: int, how: str) -> None:
        length = min(length, VOLUME_BYTES - offset)
        flags = fua | (nbd.CMD_FLAG_NO_HOLE if how == "zero without hole" else 0)
        handle = self.handles[connection]
        request = handle.trim if how == "trim" else handle.zero
        self._timed([Piece(offset, bytes(length))], lambda: request(length, offset, flags))

    @rule(seed=st.integers(0, 1 << 16), count=st.integers(2, 12))
    def burst(self, seed: int, count: int) -> None:
        """Requests under way together, on all connections, side by side: neighbours share sectors."""
        rng = random.Random(seed)
        cuts = sorted(rng.sample(range(VOLUME_BYTES), count + 1))
        pieces = [Piece(a, _content(b - a, 2 * rng.getrandbits(16) + 1)) for a, b in itertools.pairwise(cuts)]
        pieces = [Piece(offset, content[: rng.randint(1, 40_000)]) for offset, content in pieces]
        self._timed(pieces, lambda: self._together(pieces))

    def _together(self, pieces: list[Piece]) -> None:
        waiting = []
        for number, (offset, content) in enumerate(pieces):
            handle = self.handles[number % CONNECTIONS]
            buffer = nbd.Buffer.from_bytearray(bytearray(content))
            waiting.append((handle, handle.aio_pwrite(buffer, offset)))
        for handle, cookie in waiting:
            while not handle.aio_command_completed(cookie):
                handle.poll(-1)

    @rule(connection=_connection)
    def flush(self, connection: int) -> None:
        self.handles[connection].flush()

    @rule(connection=_connection, offset=_offset, length=_length)
    def read(self, connection: int, offset: int, length: int) -> None:
        length = min(length, VOLUME_BYTES - offset)
        same = self.handles[connection].pread(length, offset) == self.model.now[offset : offset + length]
        assert same, f"{length} bytes at {offset}"

    @rule(data=st.data())
    def bookmark(self, data: st.DataObject) -> None:
        """A name for an instant of now or of the past. It is a record of its own."""
        lsn = data.draw(st.sampled_from(self.model.lsns()), "bookmarked")
        name = f"mark{len(self.model.bookmarks)}"
        self._control(lambda store: store.bookmark(self.name, name, AtLsn(lsn), force=False))
        self.model.bookmarks[name] = lsn
        self.model.note_control(self.model.last_lsn + 1)

    @precondition(lambda self: len(self.views) < 4)
    @rule(data=st.data())
    def keep_a_view_open(self, data: st.DataObject) -> None:
        lsn = data.draw(st.sampled_from(self.model.lsns()), "viewed")
        self.views.append((lsn, connect(self.daemon.uri(self.name, f"lsn:{lsn}"))))

    @precondition(lambda self: self.model.last_lsn)
    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """After a kill the numbers go on far above, behind a record that tells of it."""
        if clean:
            self._look_at_views()
            for handle in self.handles:
                handle.shutdown()
            self.daemon.stop()
        else:
            self.daemon.kill()
        self.views = []
        self.daemon.start()
        self._connect()
        latest = self._control(lambda store: store.resolve(self.name, Latest())).lsn
        if clean:
            assert latest == self.model.last_lsn
        elif latest != self.model.last_lsn:
            # Nothing was under way: all that was replied to is there. Without a record of its run the kill left nothing to recover.
            assert latest > self.model.last_lsn
            self.model.note_control(latest)

    def _look_at_views(self) -> None:
        for lsn, handle in self.views:
            self.model.assert_shows(lsn, read_all(handle, 333_333))
            handle.shutdown()

    def teardown(self) -> None:
        if hasattr(self, "model") and self.daemon.running:
            self._look_at_views()
            self._look_back(random.Random(len(self.model.settled)))
            for handle in self.handles:
                handle.shutdown()

    def _look_back(self, rng: random.Random) -> None:
        """Compares instants by LSN, by time and by bookmark, while the daemon goes on serving."""
        folder = LocalStore(self.daemon.store).catalog.find(self.name).folder
        volume = _native.Volume.open(str(folder), read_only=True)
        try:
            assert volume.latest().lsn == self.model.last_lsn
            stamps = [(volume.instant_of_lsn(lsn).stamp, lsn) for lsn in self.model.lsns()]
            self._assert_stamps(stamps)
            for instant in self._instants(stamps, rng):
                step = rng.choice([VOLUME_BYTES, 100_001, 65536])
                self._compare(volume, instant, step)
                type(self).compared += 1
        finally:
            volume.close()

    def _assert_stamps(self, stamps: list[tuple[int, int]]) -> None:
        """Each between the arrival of its request and its reply, and never backwards."""
        assert [stamp for stamp, _ in stamps] == sorted(stamp for stamp, _ in stamps)
        for stamp, lsn in stamps:
            if lsn in self.model.sent:
                before, after = self.model.sent[lsn]
                assert before <= stamp <= after, f"LSN {lsn}"

    def _instants(self, stamps: list[tuple[int, int]], rng: random.Random) -> Iterator[Instant]:
        first, now = stamps[0][0], time.time_ns()
        for number in range(INSTANTS):
            kind = number % 4
            if kind == 0 and self.model.bookmarks:
                name = rng.choice(sorted(self.model.bookmarks))
                yield Instant(f"bookmark:{name}", self.model.bookmarks[name])
            elif kind <= 1:
                lsn = rng.choice(stamps)[1]
                yield Instant(f"lsn:{lsn}", lsn)
            else:
                near = rng.choice(stamps)[0] + rng.choice([-1, 0, 1])
                stamp = max(first, near if kind == 2 else rng.randint(first, now))
                yield instant_at(stamps, stamp, unix=rng.random() < 0.5)

    def _compare(self, volume: _native.Volume, instant: Instant, step: int) -> None:
        view = connect(self.daemon.uri(self.name, instant.when))
        assert view.is_read_only()
        self.model.assert_shows(instant.lsn, read_all(view, step))
        view.shutdown()
        self.model.assert_shows(instant.lsn, restored_natively(volume, instant.lsn))
        self.model.assert_shows(instant.lsn, restored_by_salvage(self.daemon.store, self.name, instant.when))


@pytest.fixture(scope="module")
def machine() -> Iterator[type[WireMachine]]:
    folder = Path(tempfile.mkdtemp(prefix="cdp-"))
    try:
        (folder / "store").mkdir()
        with Daemon(folder / "store") as daemon:
            yield type("Machine", (WireMachine,), {"daemon": daemon})
    finally:
        shutil.rmtree(folder)


def _run(machine: type[WireMachine], examples: int, steps: int) -> None:
    limits = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=limits)


@pytest.mark.timeout(900)  # Most of it is for shrinking a failure, which hypothesis ends after 300 s.
def test_every_instant_equals_the_model(machine: type[WireMachine]) -> None:
    machine.compared = 0
    _run(machine, EXAMPLES, STEPS)
    assert machine.compared >= EXAMPLES * INSTANTS


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_instant_of_long_histories_equals_the_model(machine: type[WireMachine]) -> None:
    _run(machine, 60, 250)
