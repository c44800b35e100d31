"""The native engine and the reference reader agree: on what the engine wrote, also after kill -9, and on what the
independent writer wrote, also with a torn tail.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from cdp import _native
from cdp.salvage.check import check_volume
from cdp.salvage.volume import Volume, open_volume
from cdp.salvage.when import Time
from tests.format.native_history import SIZE, lay_volume, run
from tests.format.stores import Modelled, restored
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
    latest = native.latest()
    assert (latest.lsn, latest.stamp) == (history.latest.lsn, history.latest.stamp)
    stamps = {stretch.last_stamp for stretch in history.stretches} | {history.created}
    for stamp in sorted(exact + off for exact in stamps for off in (-1, 0, 1)):
        if history.created <= stamp <= time.time_ns():
            theirs, ours = native.instant_at(stamp), history.resolve(Time(stamp), time.time_ns())
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
        words = [sys.executable, "-m", "tests.format.native_history", str(folder), str(seed), str(steps)]
        died = subprocess.run(words, capture_output=True, text=True, check=False)
        assert died.returncode == -9, died.stderr
        state, states = _replay(base, seed, steps)
        assert sorted(states)[1:] == [int(lsn) for lsn in died.stdout.split()]
        assert not check_volume(folder).damaged
        _both_read(folder, states)
        volume, later = run(folder, state, seed + 1, more)
        volume.close()
        _both_read(folder, states | later)  # and the event that tells of the recovery
        _clean(folder)


def _replay(base: str, seed: int, steps: int) -> tuple[bytearray, dict[int, bytes]]:
    """The model of the history that the killed process ran, from a second run of it."""
    state = bytearray(SIZE)
    states = {0: bytes(state)}
    volume, more = run(lay_volume(Path(base, "again"), time.time_ns()), state, seed, steps)
    volume.close()
    return state, states | more


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
