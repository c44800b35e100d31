"""A volume and its clones against plain byte arrays, over the wire: after any history every instant that is kept reads as it was, through each of the
three readers, and every one that was given up is refused by each.

A hypothesis state machine, because a failure that took sixty requests to appear is understood from the four that remain. One daemon serves all
examples (a start costs more than an example), each on volumes of its own; restarts and kills are rules like any other.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import nbd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cdp.errors import NotFound
from cdp.when import AtLsn, Latest
from tests.property.model_disk import CONNECTIONS, EVERYTHING, Disk, patiently, remote, replied
from tests.property.model_look import compare_changes, instants, look
from tests.property.model_readers import connect, read_all, salvage_finds
from tests.property.model_rollback import roll_back
from tests.property.model_scratch import Scratch
from tests.property.model_volume import Model, Piece
from tests.rig.daemon import Daemon

VOLUME_BYTES = (1 << 20) + 3 * 512
DISKS_MAX = 4
VIEWS_MAX = 4
SCRATCH_MAX = 3
FIRST_WRITES = 10
LAST_MARKS = 4
EXAMPLES = 6
STEPS = 40
INSTANTS = 8
"""Looked at in each volume at the end of an example, and again when it gave up all but bookmarks."""

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
_number = st.integers(0, 11)
_seed = st.integers(0, 1 << 16)
_request = st.tuples(_offset, _length, _seed)
_pick = st.integers(0, 1 << 16)
"""Which one of so many, from the newest back."""
_fua = st.sampled_from([0, 0, 0, nbd.CMD_FLAG_FUA])


def _content(length: int, seed: int) -> bytes:
    """By turns noise, text that shrinks, and zeros."""
    if seed % 8 == 0:
        return bytes(length)
    if seed % 2:
        return random.Random(seed).randbytes(length)
    line = b"%d lines of this " % seed
    return (line * (length // len(line) + 1))[:length]


def _side_by_side(seed: int, count: int) -> list[Piece]:
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(VOLUME_BYTES), count + 1))
    pieces = [Piece(a, _content(b - a, 2 * rng.getrandbits(16) + 1)) for a, b in itertools.pairwise(cuts)]
    return [Piece(offset, content[: rng.randint(1, 40_000)]) for offset, content in pieces]


def _picked(disk: Disk, pick: int) -> int:
    lsns = disk.model.lsns()
    return lsns[-1 - pick % len(lsns)]


class WireMachine(RuleBasedStateMachine):
    """One example: a volume and its clones, requests on several connections, and at the end a look back at instants of all kinds.

    What is drawn does not depend on what the daemon did: it is taken modulo what there is.
    """

    daemon: Daemon
    compared = 0

    @initialize(seed=_seed)
    def create(self, seed: int) -> None:
        """A volume that was written to: what comes then has something to go back to, and to drop."""
        if not self.daemon.running:
            self.daemon.start()
        self.name = f"disk-{time.time_ns()}"
        with remote(self.daemon.store) as store:
            store.create(self.name, VOLUME_BYTES, 512, None)
        self.disks = [Disk(self.daemon, self.name, Model(VOLUME_BYTES))]
        for piece in _side_by_side(seed, FIRST_WRITES):
            self._write(self.disks[0], 0, piece, 0)
        self.scratch: list[Scratch] = []
        self.made = 0

    def _disk(self, number: int) -> Disk:
        return self.disks[number % len(self.disks)]

    @rule(disk=_number, connection=_connection, requests=st.lists(_request, min_size=1, max_size=6), fua=_fua)
    def write(self, disk: int, connection: int, requests: list[tuple[int, int, int]], fua: int) -> None:
        for offset, length, seed in requests:
            content = _content(min(length, VOLUME_BYTES - offset), seed)
            self._write(self._disk(disk), connection, Piece(offset, content), fua)

    def _write(self, disk: Disk, connection: int, piece: Piece, fua: int) -> None:
        disk.timed([piece], lambda: disk.handles[connection].pwrite(piece.content, piece.offset, fua))

    @rule(
        disk=_number,
        connection=_connection,
        offset=_offset,
        length=_length,
        fua=_fua,
        how=st.sampled_from(["trim", "zero", "zero without hole"]),
    )
    def clear(self, disk: int, connection: int, offset: int, length: int, fua: int, how: str) -> None:
        it = self._disk(disk)
        length = min(length, VOLUME_BYTES - offset)
        flags = fua | (nbd.CMD_FLAG_NO_HOLE if how == "zero without hole" else 0)
        handle = it.handles[connection]
        request = handle.trim if how == "trim" else handle.zero
        it.timed([Piece(offset, bytes(length))], lambda: request(length, offset, flags))

    @rule(disk=_number, seed=_seed, count=st.integers(2, 12))
    def burst(self, disk: int, seed: int, count: int) -> None:
        """Requests under way together, on all connections, side by side: neighbours share sectors."""
        it = self._disk(disk)
        pieces = _side_by_side(seed, count)
        it.timed(pieces, lambda: all(replied(*request) for request in it.begin(pieces)) or pytest.fail("no reply"))

    @rule(disk=_number, connection=_connection)
    def flush(self, disk: int, connection: int) -> None:
        self._disk(disk).handles[connection].flush()

    @rule(disk=_number, connection=_connection, offset=_offset, length=_length)
    def read(self, disk: int, connection: int, offset: int, length: int) -> None:
        it = self._disk(disk)
        length = min(length, VOLUME_BYTES - offset)
        same = it.handles[connection].pread(length, offset) == it.model.now[offset : offset + length]
        assert same, f"{length} bytes at {offset}"

    @rule(disk=_number, instants=st.lists(_pick, min_size=1, max_size=4))
    def bookmark(self, disk: int, instants: list[int]) -> None:
        """Names for instants of now or of the past. Each is a record of its own, and keeps its instant."""
        for instant in instants:
            self._bookmark(self._disk(disk), _picked(self._disk(disk), instant))

    def _bookmark(self, it: Disk, lsn: int) -> None:
        name = f"mark{it.model.last_lsn}"
        try:
            it.control(lambda store: store.bookmark(it.name, name, AtLsn(lsn), force=False))
        except NotFound:
            assert not it.reach().holds(lsn)
            return
        it.model.bookmarks[name] = lsn
        it.model.note_control(it.model.last_lsn + 1)

    @rule(disk=_number, mark=_pick)
    def remove_bookmark(self, disk: int, mark: int) -> None:
        it = self._disk(disk)
        if it.model.bookmarks:
            name = sorted(it.model.bookmarks)[mark % len(it.model.bookmarks)]
            del it.model.bookmarks[name]
            it.control(lambda store: store.remove_bookmark(it.name, name))
            it.model.note_control(it.model.last_lsn + 1)

    @rule(disk=_number, instant=_pick)
    def keep_a_view_open(self, disk: int, instant: int) -> None:
        it = self._disk(disk)
        lsn = _picked(it, instant)
        if len(it.views) == VIEWS_MAX:
            self._look_at_views(it)
        try:
            it.views.append((lsn, connect(self.daemon.uri(it.name, f"lsn:{lsn}"))))
        except nbd.Error:
            assert not it.reach().holds(lsn)

    @rule(disk=_number, promise=st.booleans())
    def give_up(self, disk: int, promise: bool) -> None:
        """The policy keeps nothing; `promise`: of what comes now it keeps all."""
        it = self._disk(disk)
        it.give_up()
        if promise:
            it.set_policy(EVERYTHING)

    @rule(disk=_number)
    def compact(self, disk: int) -> None:
        self._disk(disk).compact()

    @rule(disk=_number, instant=_pick, undo=st.booleans(), force=st.booleans(), seed=_seed, count=st.integers(0, 9))
    def rollback(self, disk: int, instant: int, undo: bool, force: bool, seed: int, count: int) -> None:
        it = self._disk(disk)
        to = None if undo else _picked(it, instant)
        roll_back(it, to, _side_by_side(seed, count) if count > 1 else [], force=force)

    @rule(disk=_number, instant=_pick)
    def clone(self, disk: int, instant: int) -> None:
        it = self._disk(disk)
        if len(self.disks) == DISKS_MAX:
            return
        lsn = _picked(it, instant)
        self.made += 1
        name = f"{self.name}-{self.made}"
        try:
            it.control(lambda store: store.clone(it.name, AtLsn(lsn), name))
        except NotFound:
            assert not it.reach().holds(lsn)
            return
        handle = connect(self.daemon.uri(name))
        it.model.pin_down(lsn, read_all(handle, VOLUME_BYTES))
        handle.shutdown()
        self.disks.append(Disk.cloned(it, name, lsn))

    @rule(disk=_number)
    def delete(self, disk: int) -> None:
        """Whoever shares history with it goes on."""
        if len(self.disks) > 1:
            self._delete(self._disk(disk))

    def _delete(self, disk: Disk) -> None:
        for scratch in [scratch for scratch in self.scratch if scratch.disk is disk]:
            self._end_scratch(scratch)
        self._look_at_views(disk)
        disk.disconnect()
        patiently(lambda: disk.control(lambda store: store.delete(disk.name, now=True)))
        self.disks.remove(disk)
        assert not disk.folder.exists()

    @rule(disk=_number, instant=_pick, named=st.booleans())
    def open_scratch(self, disk: int, instant: int, named: bool) -> None:
        it = self._disk(disk)
        if len(self.scratch) == SCRATCH_MAX:
            self._end_scratch(self.scratch[0])
        lsn = _picked(it, instant)
        self.made += 1
        try:
            scratch = Scratch(it, lsn, f"s{self.made}" if named else "")
        except nbd.Error:
            assert not it.reach().holds(lsn)
            return
        self.scratch.append(scratch)

    @rule(scratch=_number, offset=_offset, length=_length, seed=_seed)
    def write_scratch(self, scratch: int, offset: int, length: int, seed: int) -> None:
        if self.scratch:
            content = _content(min(length, VOLUME_BYTES - offset), seed)
            self.scratch[scratch % len(self.scratch)].write(offset, content)

    @rule(scratch=_number)
    def close_scratch(self, scratch: int) -> None:
        if self.scratch:
            self._end_scratch(self.scratch[scratch % len(self.scratch)])

    def _end_scratch(self, scratch: Scratch) -> None:
        self.scratch.remove(scratch)
        scratch.end()

    @rule(disk=_number, seed=_seed)
    def look(self, disk: int, seed: int) -> None:
        it = self._disk(disk)
        for instant in instants(it, 4, random.Random(seed)):
            type(self).compared += look(it, instant, VOLUME_BYTES)

    @rule(clean=st.booleans(), meanwhile=st.booleans(), disk=_number, horizon=_pick)
    def restart(self, clean: bool, meanwhile: bool, disk: int, horizon: int) -> None:
        """After a kill the numbers go on far above, behind a record that tells of it. `meanwhile`: somebody gives up, up to any instant, and compacts."""
        if clean:
            for it in self.disks:
                self._look_at_views(it)
                it.disconnect()
            self.daemon.stop()
            assert not list((self.daemon.store / "volumes").glob(".scratch-*"))
        else:
            self.daemon.kill()
        for it in self.disks:
            it.views = []
        self.scratch = []
        if meanwhile:
            it = self._disk(disk)
            it.give_up_to(_picked(it, horizon))
        self.daemon.start()
        for it in self.disks:
            it.handles = it.connected()
            latest = it.control(lambda store, name=it.name: store.resolve(name, Latest())).lsn  # type: ignore[misc]
            if clean:
                assert latest == it.model.newest
            elif latest != it.model.newest:
                # Nothing was under way: all that was replied to is there. Without a record of its run the kill left nothing to recover.
                it.model.note_control(latest)

    def _look_at_views(self, disk: Disk) -> None:
        for lsn, handle in disk.views:
            disk.model.assert_shows(lsn, read_all(handle, 333_333))
            handle.shutdown()
        disk.views = []

    def teardown(self) -> None:
        if hasattr(self, "disks") and self.daemon.running:
            rng = random.Random(sum(len(disk.model.settled) for disk in self.disks))
            for disk in self.disks:
                self._look_back(disk, rng)
                self._go_back_and_give_up(disk, rng)
                self._look_back(disk, rng)
            while self.disks:
                self._delete(self.disks[rng.randrange(len(self.disks))])

    def _go_back_and_give_up(self, disk: Disk, rng: random.Random) -> None:
        """Whatever the rules did: each volume ends with branches below a horizon, and some points of them."""
        for to in (rng.choice(disk.model.lsns()), None, rng.choice(disk.model.lsns())):
            roll_back(disk, to, _side_by_side(rng.getrandbits(16), 4), force=True)
        for _ in range(LAST_MARKS):
            self._bookmark(disk, rng.choice(disk.model.lsns()))
        disk.give_up()

    def _look_back(self, disk: Disk, rng: random.Random) -> None:
        """Compares instants by LSN, by time and by bookmark, while the daemon goes on serving."""
        latest = disk.control(lambda store: store.resolve(disk.name, Latest())).lsn
        assert latest == disk.model.newest
        same = disk.shown() == disk.model.now
        assert same, disk.name
        for instant in instants(disk, INSTANTS, rng):
            step = rng.choice([VOLUME_BYTES, 100_001, 65536])
            type(self).compared += look(disk, instant, step)
        compare_changes(disk, rng.choice(self.disks), rng)
        assert disk.control(lambda store: store.verify(disk.name, None, rate=0)).findings == ()
        disk.model.note_control(disk.model.last_lsn + 1)  # That it was checked is an event.
        found = salvage_finds(self.daemon.store, disk.name)
        assert not found, (disk.name, found)


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
    assert machine.compared >= EXAMPLES * INSTANTS // 2


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_instant_of_long_histories_equals_the_model(machine: type[WireMachine]) -> None:
    _run(machine, 40, 200)
