"""kill -9 of the daemon under load, again and again: what was replied to is there, nothing is half there, the past does not change.

The machine keeps its power here, so a flush adds nothing to a reply; power cuts are the simulator's (native/sim).
"""

from __future__ import annotations

import hashlib
import random
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import nbd
import pytest

from cdp import _native, marks
from cdp.errors import NotFound
from tests.crash.load import Lane, Load, lanes
from tests.rig.daemon import Daemon

ROUNDS = 50
HEAVY_EVERY = 17
"""Rounds in which the load fills more than a segment, so that the kill falls near a roll."""
VOLUME_BYTES = 2 << 20
LANES = 4
RECOVERY_KILL_MS_MAX = 40


def _read(uri: str) -> memoryview:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    content = handle.pread(handle.get_size(), 0)
    handle.shutdown()
    return memoryview(content).toreadonly()


def _sha(content: memoryview) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass
class Ordeal:
    """A volume that is crashed, and what is known of its past: `kept` maps LSNs to the hashes of their states."""

    daemon: Daemon
    rng: random.Random
    lanes: list[Lane] = field(init=False)
    kept: dict[int, bytes] = field(default_factory=dict)
    last_lsn: int = 0
    """The number before that of the round's first request."""

    def __post_init__(self) -> None:
        self.lanes = lanes(VOLUME_BYTES, LANES, self.rng)
        self.daemon.cdp("create", "disk", "--size", str(VOLUME_BYTES))
        (self.folder,) = (self.daemon.store / "volumes").iterdir()

    @property
    def uri(self) -> str:
        return self.daemon.uri("disk")

    def crash(self, number: int) -> None:
        """Loads the volume and kills the daemon at an arbitrary moment."""
        heavy = number % HEAVY_EVERY == HEAVY_EVERY - 1
        load = Load(self.uri, self.lanes, bytes_max=400_000 if heavy else 80_000)
        # After an unclean end the numbers go on far above: the first write of the round tells where.
        load.first()
        self.last_lsn = self.latest() - 1
        load.run(self.rng.randint(1500, 2000) if heavy else self.rng.randint(1, 500), self.daemon.kill)

    def crash_recovery(self) -> None:
        """Starts the daemon, makes it recover, and kills it at it."""
        self.daemon.start()
        opening = threading.Thread(target=self._open_and_fail)
        opening.start()
        opening.join(self.rng.uniform(0, RECOVERY_KILL_MS_MAX / 1000))
        self.daemon.kill()
        opening.join()

    def _open_and_fail(self) -> None:
        with suppress(nbd.Error):
            _read(self.uri)

    def latest(self) -> int:
        looked = _native.Volume.open(str(self.folder), read_only=True)
        try:
            return looked.latest().lsn
        finally:
            looked.close()

    def judge(self) -> None:
        """Compares what the restarted daemon serves with what was sent and replied to."""
        now = _read(self.uri)
        applied = [lane.applied_in([now])[0] for lane in self.lanes]
        self._judge_numbers(applied)
        count = self._records_kept(applied)
        self._judge_instants(count)
        for lane, (_, most) in zip(self.lanes, applied, strict=True):
            lane.begin_round(most)
        self.kept[self.last_lsn + count] = _sha(now)
        for lsn in self.rng.sample(sorted(self.kept), min(3, len(self.kept))):
            self.judge_kept(lsn)

    def _judge_numbers(self, applied: list[tuple[int, int]]) -> None:
        for lane, (_, most) in zip(self.lanes, applied, strict=True):
            assert most >= lane.replied, f"lane {lane.index}: request {lane.replied} was replied to, {most} are there"

    def _records_kept(self, applied: list[tuple[int, int]]) -> int:
        """The number of records of the round that recovery kept: one a request, numbered without gaps."""
        least, most = (sum(counts) for counts in zip(*applied, strict=True))
        looked = _native.Volume.open(str(self.folder), read_only=True)
        try:
            count = next(n for n in range(most, -1, -1) if _has(looked, self.last_lsn + n))
            assert count >= least, f"{least} requests are there, but only {count} records"
            assert not _has(looked, self.last_lsn + count + 1)
            latest = looked.latest().lsn
            assert latest >= self.last_lsn + count
            assert not looked.faults()
            told = [event for event in marks.events(looked.controls()) if event.lsn > self.last_lsn]
            assert told, "no event tells of the unclean end"
            assert (told[0].event, told[0].details["last_lsn"]) == ("recovery", self.last_lsn + count)
        finally:
            looked.close()
        sent = sum(len(lane.requests) for lane in self.lanes)
        assert latest == self.last_lsn + count or latest > self.last_lsn + sent, "an LSN was given out again"
        return count

    def _judge_instants(self, count: int) -> None:
        """At any LSN of the round each lane shows whole requests in their order, and together as many as there are records."""
        lsns = sorted(self.last_lsn + self.rng.randint(0, count) for _ in range(3))
        seen = [_read(self.daemon.uri("disk", f"lsn:{lsn}")) for lsn in lsns]
        shown = [lane.applied_in(seen) for lane in self.lanes]
        for i, lsn in enumerate(lsns):
            least, most = sum(lane[i][0] for lane in shown), sum(lane[i][1] for lane in shown)
            assert least <= lsn - self.last_lsn <= most, f"LSN {lsn}: {least} to {most} requests"
            self.kept[lsn] = _sha(seen[i])

    def judge_kept(self, lsn: int) -> None:
        assert _sha(_read(self.daemon.uri("disk", f"lsn:{lsn}"))) == self.kept[lsn], f"LSN {lsn} has changed"


def _has(volume: _native.Volume, lsn: int) -> bool:
    try:
        volume.instant_of_lsn(lsn)
    except NotFound:
        return False
    return True


@pytest.mark.timeout(600)
def test_kill_under_load(store: Path, rng: random.Random) -> None:
    with Daemon(store) as daemon:
        ordeal = Ordeal(daemon, rng)
        for number in range(ROUNDS):
            ordeal.crash(number)
            if rng.random() < 0.3:
                ordeal.crash_recovery()
            daemon.start()
            ordeal.judge()
        for lsn in ordeal.kept:
            ordeal.judge_kept(lsn)
        daemon.cdp.run("verify", "disk")
    daemon.cdp.run("verify", "disk")
