"""The native engine and the reference reader agree: on what the engine wrote, also after kill -9, and on what the
independent writer wrote, also with a torn tail.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from cdp import _native
from cdp.errors import Corrupt
from cdp.salvage.check import check_volume
from cdp.salvage.instants import latest, resolve
from cdp.salvage.volume import Volume, open_volume
from cdp.salvage.when import Time
from tests.format.native_history import SIZE, lay_volume, run, run_and_be_killed, step
from tests.format.stores import Modelled, restored
from tests.format.writer_segment import PAGE, SECTOR
from tests.property.test_salvage_histories import build, tear

SEEDS = st.integers(0, 2**32)


def _both_read(folder: Path, states: dict[int, bytes]) -> None:
    """Both readers show the model at every LSN. What the engine itself recorded changes nothing."""
    native = _native.Volume.open(str(folder), read_only=True)
    try:
        events = [lsn for lsn, _, _ in native.controls() if lsn not in states]
        for lsn in events:
            states[lsn] = states[max(known for known in states if known < lsn)]
        assert native.latest().lsn == max(states)
        for lsn, state in states.items():
            view = native.view(lsn)
            assert view.read(0, view.size) == state, f"native, LSN {lsn}"
            out = folder / "../../../out"
            assert restored(folder.parents[1], out, f"lsn:{lsn}") == state, f"salvage, LSN {lsn}"
        salvaged = open_volume(folder)
        try:
            _agree(native, salvaged)
        finally:
            salvaged.close()
    finally:
        native.close()


def _agree(native: _native.Volume, salvaged: Volume) -> None:
    history = salvaged.history
    assert native.controls() == [(control.lsn, control.stamp, control.text) for control in history.controls]
    theirs, ours = native.latest(), latest(history)
    assert (theirs.lsn, theirs.stamp) == (ours.lsn, ours.stamp)
    stamps = {stretch.last_stamp for stretch in history.stretches} | {mark.stamp for mark in history.marks}
    for stamp in sorted(exact + off for exact in stamps for off in (-1, 0, 1)):
        if history.marks[0].stamp <= stamp <= time.time_ns():
            theirs, ours = native.instant_at(stamp), resolve(history, Time(stamp), time.time_ns())
            assert (theirs.lsn, theirs.other or 0) == (ours.lsn, ours.other_lsn or 0), stamp


def _clean(folder: Path) -> None:
    native = _native.Volume.open(str(folder), read_only=True)
    assert native.verify() == []
    native.close()
    assert check_volume(folder).findings == []


@settings(max_examples=12)
@given(seed=SEEDS, steps=st.lists(st.integers(0, 25), min_size=1, max_size=3))
def test_both_read_what_the_engine_wrote(seed: int, steps: list[int]) -> None:
    state = bytearray(SIZE)
    states = {0: bytes(state)}
    with tempfile.TemporaryDirectory() as base:
        folder = lay_volume(Path(base, "store"), time.time_ns())
        for number, count in enumerate(steps):
            volume, more = run(folder, state, seed + number, count)
            states |= more
            assert not [finding for finding in check_volume(folder).findings if finding.severity == "damage"]
            volume.close()
            _both_read(folder, states)
            _clean(folder)


@settings(max_examples=12)
@given(seed=SEEDS, steps=st.integers(1, 40), more=st.integers(0, 10))
def test_both_read_what_a_killed_engine_left(seed: int, steps: int, more: int) -> None:
    with tempfile.TemporaryDirectory() as base:
        folder = lay_volume(Path(base, "store"), time.time_ns())
        state = bytearray(SIZE)
        states = {0: bytes(state)} | run_and_be_killed(folder, state, seed, steps)
        assert not check_volume(folder).damaged
        _both_read(folder, states)
        volume, later = run(folder, state, seed + 1, more)
        volume.close()
        _both_read(folder, states | later)  # and the event that tells of the recovery
        _clean(folder)


def test_a_check_beside_a_running_writer_finds_no_damage(tmp_path: Path) -> None:
    folder = lay_volume(tmp_path / "store", time.time_ns())
    volume = _native.Volume.open(str(folder))
    wrote, done = threading.Event(), threading.Event()
    # A writer that is much faster than the check would give each check several times as much to read as the one before.
    room = threading.Semaphore(0)

    def write_on() -> None:
        draw, state = random.Random(1), bytearray(SIZE)
        while not done.is_set():
            if room.acquire(timeout=0.1):
                step(volume, state, draw)
                wrote.set()

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for _ in range(8):
            room.release(4000)
            assert wrote.wait(60)
            wrote.clear()
            report = check_volume(folder)
            assert not report.damaged, report.findings
            assert isinstance(restored(tmp_path / "store", tmp_path / "out", "latest"), bytes)
    finally:
        done.set()
        writer.join()
        volume.close()


@settings(max_examples=12)
@given(seed=SEEDS, steps=st.integers(0, 14), stop=st.booleans())
def test_the_engine_reads_what_the_writer_wrote(seed: int, steps: int, stop: bool) -> None:
    made = build(seed, steps)
    if stop:
        made.volume.stop()
    with tempfile.TemporaryDirectory() as base:
        folder = made.volume.save(Path(base, "store"))
        _both_read(folder, made.states)
        if stop:
            _clean(folder)
        _write_on(folder, made, seed)


@settings(max_examples=12)
@given(seed=SEEDS, steps=st.integers(1, 10))
def test_both_cut_a_torn_tail_at_the_same_record(seed: int, steps: int) -> None:
    made = build(seed, steps)
    made.forget_after(tear(made, seed))
    with tempfile.TemporaryDirectory() as base:
        folder = made.volume.save(Path(base, "store"))
        _both_read(folder, made.states)
        _write_on(folder, made, seed)


@settings(max_examples=25)
@given(seed=SEEDS, steps=st.integers(1, 12), stop=st.booleans(), whole_page=st.booleans())
def test_both_lose_the_same_to_one_fault(seed: int, steps: int, stop: bool, whole_page: bool) -> None:
    made = build(seed, steps)
    if stop:
        made.volume.stop()
    _one_fault(made, random.Random(seed), whole_page)
    with tempfile.TemporaryDirectory() as base:
        folder = made.volume.save(Path(base, "store"))
        native = _native.Volume.open(str(folder), read_only=True)
        for lsn in [lsn for lsn in made.states if lsn <= native.latest().lsn]:
            shown = _readable(native.view(lsn))
            assert restored(folder.parents[1], Path(base, "out"), f"lsn:{lsn}", "--allow-damage") == shown, f"LSN {lsn}"
        native.close()


def _one_fault(made: Modelled, draw: random.Random, whole_page: bool) -> None:
    segments = [segment for segment in made.volume.segments if f"segment-{segment.id:08x}" in made.volume.files]
    if not segments:
        return
    segment = draw.choice(segments)
    page = draw.randrange(len(segment.data) // PAGE + 1) * PAGE
    end = min(len(segment.data), page + PAGE)
    if whole_page:
        segment.data[page:end] = bytes(end - page)
    elif page < end:
        segment.data[draw.randrange(page, end)] ^= 1 << draw.randrange(8)


def _readable(view: _native.View) -> bytes:
    """The view with zeros for the sectors that cannot be read."""
    shown = bytearray()
    for offset in range(0, view.size, SECTOR):
        try:
            shown += view.read(offset, SECTOR)
        except Corrupt:
            shown += bytes(SECTOR)
    return bytes(shown)


def _write_on(folder: Path, made: Modelled, seed: int) -> None:
    """The engine recovers the volume and goes on; both still agree on all of it."""
    last = max(made.states)
    state = bytearray(made.states[last]).ljust(SIZE, b"\0")
    volume = _native.Volume.open(str(folder))
    lsn = volume.write(0, b"on" * 256)
    volume.close()
    assert lsn > last
    made.states[lsn] = b"on" * 256 + bytes(state[512 : made.volume.size])
    _both_read(folder, made.states)
