"""What the engine writes when histories branch and are thinned, the reference reader reads: rollbacks, retention, compaction,
merged runs, clones whose parent goes on, is compacted or goes away.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from cdp import _native
from cdp.salvage.check import check_volume
from cdp.salvage.facts import reach_facts
from cdp.salvage.volume import open_volume
from tests.format.native_branches import Driven
from tests.format.native_history import SIZE, lay_volume
from tests.format.stores import restored
from tests.property.test_salvage_branches import same_times

SEEDS = st.integers(0, 2**32)


def both_read(driven: Driven) -> None:
    """Both readers show the model at every instant, refuse the rest, and find nothing amiss."""
    driven.volume.close()
    native = _native.Volume.open(str(driven.folder), read_only=True)
    with contextlib.closing(native), contextlib.closing(open_volume(driven.folder)) as ours:
        assert check_volume(driven.folder).findings == []
        assert (native.verify(), native.faults()) == ([], [])
        reach, facts = native.reach(), reach_facts(ours)
        assert facts["horizon"]["lsn"] == reach["horizon"]
        assert [(p["lsn"], p["stamp"]) for p in facts["points"]] == [(lsn, stamp) for lsn, stamp, _ in reach["points"]]
        for lsn in range(native.latest().lsn + 2):
            wanted = driven.states.get(lsn, 2)
            out = driven.folder / "../../../out"
            assert restored(driven.folder.parents[1], out, f"lsn:{lsn}", name=driven.name) == wanted, lsn
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
        both_read(driven)


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
            both_read(driven)
        driven.volume.close()
        if parent == "goes away":
            shutil.rmtree(driven.folder)
        child.drive(draw, more)
        grandchild = child.fork(draw, "grandchild", "d" * 32)
        grandchild.drive(draw, more)
        both_read(child)
        both_read(grandchild)


def test_a_look_beside_a_writer_that_compacts_finds_no_damage(tmp_path: Path) -> None:
    """Segments vanish under the reader, and their files are used again."""
    driven = Driven(lay_volume(tmp_path / "store", time.time_ns()))
    thinned, done = threading.Event(), threading.Event()

    def go_on() -> None:
        draw = random.Random(1)
        while not done.is_set():
            driven.drive(draw, 30, thin=False)
            driven.thin(draw)
            thinned.set()

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        for _ in range(12):
            assert thinned.wait(60)
            thinned.clear()
            report = check_volume(driven.folder)
            assert not report.damaged, report.findings
            assert isinstance(restored(tmp_path / "store", tmp_path / "out", "latest"), bytes)
    finally:
        done.set()
        writer.join()
        driven.volume.close()


def test_the_first_segment_of_a_clone_that_a_crash_left_open(tmp_path: Path) -> None:
    """What recovery seals names the parent's last number as the one before; the batch names the base."""
    driven = Driven(lay_volume(tmp_path / "store", time.time_ns()))
    child = driven.fork(random.Random(0), "child", "c" * 32)
    driven.volume.close()
    child.volume.write(0, b"x" * 512)
    crashed = tmp_path / "crashed"
    shutil.copytree(child.folder, crashed)
    child.volume.close()
    shutil.rmtree(child.folder)
    crashed.rename(child.folder)
    child.volume = _native.Volume.open(str(child.folder))
    child.volume.retain(child.volume.latest().lsn, [])
    child.volume.close()
    assert check_volume(child.folder).findings == []
    assert restored(tmp_path / "store", tmp_path / "out", "latest", name="child") == b"x" * 512 + bytes(SIZE - 512)
