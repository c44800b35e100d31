"""What the engine writes when histories branch and are thinned, the reference reader reads: rollbacks, retention, compaction,
merged runs, clones whose parent goes on, is compacted or goes away.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from cdp import _native
from cdp.salvage.check import check_volume
from cdp.salvage.facts import reach_facts
from cdp.salvage.volume import open_volume
from tests.format.native_history import SIZE, lay_volume, step
from tests.format.stores import restored
from tests.format.writer import VolumeWriter
from tests.format.writer_segment import SECTOR
from tests.property.test_salvage_branches import same_times

SEEDS = st.integers(0, 2**32)


@dataclass
class Driven:
    """A volume that the engine writes, and what it must read as at each of its instants."""

    folder: Path
    name: str = "disk"
    states: dict[int, bytes] = field(default_factory=lambda: {0: bytes(SIZE)})
    state: bytearray = field(default_factory=lambda: bytearray(SIZE))
    horizon: int = 0

    def __post_init__(self) -> None:
        self.volume = _native.Volume.open(str(self.folder))

    def drive(self, draw: random.Random, steps: int) -> None:
        """Does `steps` things, at random."""
        for _ in range(steps):
            what = draw.random()
            if what < 0.75:
                lsn = step(self.volume, self.state, draw)
                if lsn is not None:
                    self.states[lsn] = bytes(self.state)
            elif what < 0.83:
                back = draw.choice(sorted(self.states))
                self.state[:] = self.states[back]
                self.states[self.volume.rollback(back)] = bytes(self.state)
            elif what < 0.93:
                self.reopen()
            else:
                self.thin(draw)

    def reopen(self) -> None:
        """Seals the segment."""
        self.volume.close()
        self.volume = _native.Volume.open(str(self.folder))

    def thin(self, draw: random.Random) -> None:
        """Moves the horizon and compacts."""
        self.volume.flush()
        self.horizon = draw.choice([lsn for lsn in self.states if lsn >= self.horizon])
        below = [lsn for lsn in self.states if lsn < self.horizon]
        points = sorted(draw.sample(below, min(len(below), draw.randint(0, 5))))
        self.volume.retain(self.horizon, points)
        self.states = {lsn: s for lsn, s in self.states.items() if lsn >= self.horizon or lsn in points}
        self.state[:SECTOR] = bytes(SECTOR)
        self.states[self.volume.zero(0, SECTOR)] = bytes(self.state)
        self.volume.compact(draw.choice([0, 1 << 20]))

    def fork(self, draw: random.Random, name: str, identity: str) -> Driven:
        """A clone of an instant."""
        base = draw.choice(sorted(self.states))
        described = VolumeWriter(name=name, id=identity, size=SIZE, created=time.time_ns())
        folder = self.folder.parent / identity
        folder.mkdir()
        for copy in ("volume.0", "volume.1"):
            (folder / copy).write_bytes(described.files[copy])
        self.volume.fork(base, str(folder), bytes.fromhex(identity), described.created)
        state = self.states[base]
        return Driven(folder, name, {base: state}, bytearray(state), base)

    def both_read(self) -> None:
        """Both readers show the model at every instant, refuse the rest, and find nothing amiss."""
        self.volume.close()
        native = _native.Volume.open(str(self.folder), read_only=True)
        with contextlib.closing(native), contextlib.closing(open_volume(self.folder)) as ours:
            assert check_volume(self.folder).findings == []
            assert (native.verify(), native.faults()) == ([], [])
            reach, facts = native.reach(), reach_facts(ours)
            assert facts["horizon"]["lsn"] == reach["horizon"]
            assert [(p["lsn"], p["stamp"]) for p in facts["points"]] == [
                (lsn, stamp) for lsn, stamp, _ in reach["points"]
            ]
            for lsn in range(native.latest().lsn + 2):
                wanted = self.states.get(lsn, 2)
                out = self.folder / "../../../out"
                assert restored(self.folder.parents[1], out, f"lsn:{lsn}", name=self.name) == wanted, lsn
                if isinstance(wanted, bytes):
                    assert native.view(lsn).read(0, SIZE) == wanted, lsn
            same_times(native, ours.history)


@settings(max_examples=12)
@given(seed=SEEDS, steps=st.integers(1, 80))
def test_the_reader_reads_a_branched_and_thinned_volume(seed: int, steps: int) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as base:
        driven = Driven(lay_volume(Path(base, "store"), time.time_ns()))
        driven.drive(draw, steps)
        driven.both_read()


@settings(max_examples=12)
@given(seed=SEEDS, steps=st.integers(1, 40), more=st.integers(0, 40), parent=st.sampled_from(["goes on", "goes away"]))
def test_the_reader_reads_clones(seed: int, steps: int, more: int, parent: str) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as base:
        driven = Driven(lay_volume(Path(base, "store"), time.time_ns()))
        driven.drive(draw, steps)
        child = driven.fork(draw, "child", "c" * 32)
        if parent == "goes on":
            driven.drive(draw, more)
            driven.both_read()
        driven.volume.close()
        if parent == "goes away":
            shutil.rmtree(driven.folder)
        child.drive(draw, more)
        grandchild = child.fork(draw, "grandchild", "d" * 32)
        grandchild.drive(draw, more)
        child.both_read()
        grandchild.both_read()
