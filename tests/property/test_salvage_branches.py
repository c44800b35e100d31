"""Random histories of format version 2, written by the independent writer: rollbacks, a horizon with points, compaction,
runs, checkpoints, clones. The reference reader and the engine show the model at every instant, and refuse the others.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from cdp import _native
from cdp.errors import CdpError
from cdp.salvage.check import check_volume
from cdp.salvage.history import History
from cdp.salvage.instants import resolve
from cdp.salvage.volume import open_volume
from cdp.salvage.when import Time
from tests.format.stores import SECOND, Branching, extents_at, restored
from tests.format.writer_history import HistoryWriter
from tests.format.writer_segment import SECTOR, Record, rollback
from tests.property.test_salvage_histories import SECTORS, random_parts

SEEDS = st.integers(0, 2**32)
CLONES = ("c" * 32, "d" * 32)


def branch(made: Branching, draw: random.Random, steps: int) -> None:
    """Appends, seals, rolls back, retains, compacts, writes runs and checkpoints, at random."""
    for _ in range(steps):
        what = draw.random()
        if what < 0.5:
            stamp, records = _later(made, draw), []
            for _ in range(draw.choice([1, 1, 2, 5])):
                records.append(Record(stamp, random_parts(draw)))
                stamp += draw.choice([0, 1, SECOND])
            made.append(*records, sync=draw.random() < 0.4, fresh=draw.random() < 0.5)
        elif what < 0.62:
            made.append(Record(_later(made, draw), (rollback(draw.choice(made.history.instants())),)), sync=True)
        elif what < 0.8:
            made.volume.seal()
        elif what < 0.9:
            _retain(made, draw)
        elif made.volume.last_lsn:
            _index(made, draw)


def _later(made: Branching, draw: random.Random) -> int:
    return max(made.volume.last_stamp, made.volume.created) + draw.choice([0, 1, SECOND])


def _retain(made: Branching, draw: random.Random) -> None:
    """Moves the horizon, and compacts what lies below it: some neighbours of one clock epoch, often."""
    history = made.history
    instants = history.instants()
    horizon = draw.choice([lsn for lsn in instants if lsn >= history.horizon])
    below = [lsn for lsn in instants if lsn < horizon]
    made.retain(horizon, *draw.sample(below, draw.randint(0, min(4, len(below)))))
    sealed = sorted((s for s in history.every_segment if s.sealed), key=lambda s: (s.sealed or {})["first_lsn"])
    ready = [s for s in sealed if (s.sealed or {})["last_lsn"] <= horizon]
    if ready and draw.random() < 0.8:
        first = draw.randrange(len(ready))
        chosen = [s.id for s in ready[first : first + draw.randint(1, 3)] if s.volume == ready[first].volume]
        history.compact(chosen, records_a_batch=draw.choice([1, 2, 100]))


def _index(made: Branching, draw: random.Random) -> None:
    """A run of whole sealed segments, or a checkpoint of what is not open."""
    ends = [s.sealed for s in made.history.every_segment if s.sealed]
    if not ends:
        return
    if draw.random() < 0.5:
        end = draw.choice(ends)
        made.history.run(1, min(e["first_lsn"] for e in ends if e["first_lsn"] <= end["last_lsn"]), end["last_lsn"])
    else:
        lsn = max(e["last_lsn"] for e in ends)
        if made.history.exists(lsn):
            made.volume.checkpoint(extents_at(made.volume, lsn), lsn)


def both_read(made: Branching, folder: Path) -> None:
    """Both readers show the model at every instant; no other LSN is one."""
    store, out = folder.parents[1], folder / "../../../out"
    native = _native.Volume.open(str(folder), read_only=True)
    try:
        for lsn in range(made.volume.next_lsn + 1):
            wanted = made.states.get(lsn)
            assert restored(store, out, f"lsn:{lsn}", name=made.volume.name) == (2 if wanted is None else wanted), lsn
            try:
                view = native.view(lsn)
                shown = view.read(0, view.size)
            except CdpError:
                assert wanted is None, f"the engine refuses LSN {lsn}"
            else:
                assert shown == wanted, f"native, LSN {lsn}"
        with contextlib.closing(open_volume(folder)) as ours:
            same_times(native, ours.history)
    finally:
        native.close()


def same_times(native: _native.Volume, history: History) -> None:
    """Both readers name the same instants around the stamps of the marks and the records."""
    stamps = {mark.stamp for mark in history.marks} | {stretch.last_stamp for stretch in history.stretches}
    for stamp in sorted(exact + off for exact in stamps for off in (-1, 0, 1)):
        if history.marks[0].stamp <= stamp:
            theirs, ours = native.instant_at(stamp), resolve(history, Time(stamp), max(stamps) + 1)
            assert (theirs.lsn, theirs.other or 0) == (ours.lsn, ours.other_lsn or 0), stamp


def clean(folder: Path) -> None:
    """Neither reader finds anything amiss."""
    assert check_volume(folder).findings == []
    native = _native.Volume.open(str(folder), read_only=True)
    assert (native.verify(), native.faults()) == ([], [])
    native.close()


@settings(max_examples=25)
@given(seed=SEEDS, steps=st.integers(0, 25), stop=st.booleans())
def test_every_instant_reads_as_the_model(seed: int, steps: int, stop: bool) -> None:
    draw = random.Random(seed)
    made = Branching(HistoryWriter(size=SECTORS * SECTOR))
    branch(made, draw, steps)
    if stop:
        made.volume.stop()
    with tempfile.TemporaryDirectory() as base:
        folder = made.volume.save(Path(base, "store"))
        both_read(made, folder)
        clean(folder)


@settings(max_examples=25)
@given(seed=SEEDS, steps=st.integers(1, 15), more=st.integers(0, 12))
def test_a_clone_and_its_clone_read_as_their_models(seed: int, steps: int, more: int) -> None:
    draw = random.Random(seed)
    made = Branching(HistoryWriter(size=SECTORS * SECTOR))
    branch(made, draw, steps)
    with tempfile.TemporaryDirectory() as base:
        for identity in CLONES:
            made.volume.seal()
            made = made.clone(draw.choice(made.history.instants()), f"clone-{identity[0]}", identity)
            branch(made, draw, more)
        if draw.random() < 0.5:
            made.volume.stop()
        folder = made.volume.save(Path(base, "store"))
        both_read(made, folder)
        clean(folder)
