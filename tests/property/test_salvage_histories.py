"""Random histories: what the reference reader restores is what a plain bytearray holds, at every LSN and time."""

from __future__ import annotations

import random
import re
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from cdp.salvage.check import check_volume
from cdp.salvage.instants import latest, resolve
from cdp.salvage.volume import open_volume
from cdp.salvage.when import Number, Time
from tests.format.stores import SECOND, Modelled, extents_at, restored
from tests.format.writer import VolumeWriter
from tests.format.writer_segment import PAGE, SECTOR, VOID_PART, Part, Record, control, data, trim, zero

SECTORS = 40
_SCARS = re.compile("stands in|neither a batch nor zero|no valid copy|the echo of")


def random_parts(draw: random.Random) -> tuple[Part, ...]:
    if draw.random() < 0.15:
        return (
            draw.choice([VOID_PART, control(type="bookmark", name=f"b{draw.randrange(3)}", lsn=draw.randrange(5))]),
        )
    cuts = sorted(draw.sample(range(SECTORS + 1), 2 * draw.randint(1, 3)))
    parts = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=True):
        kind = draw.randrange(4)
        noise = draw.randbytes(SECTOR) if kind else b"\7" * SECTOR
        parts.append(
            (trim if kind == 2 else zero)(start, end - start) if kind > 1 else data(start, noise * (end - start))
        )
    return tuple(parts)


def build(seed: int, steps: int) -> Modelled:
    draw = random.Random(seed)
    made = Modelled(VolumeWriter(size=SECTORS * SECTOR))
    stamp = made.volume.created
    for _ in range(steps):
        what = draw.random()
        if what < 0.75:
            records = []
            for _ in range(draw.choice([0, 1, 1, 2, 5])):
                stamp += draw.choice([0, 1, SECOND])
                records.append(Record(stamp, random_parts(draw)))
            synced = draw.random() < 0.4
            made.append(*records, sync=synced, flush=draw.random() < 0.3, fresh=draw.random() < 0.5)
        elif what < 0.8:
            made.volume.idle()
        elif what < 0.85:
            sealed = made.volume.active.previous_lsn
            made.volume.checkpoint(extents_at(made.volume, sealed), sealed)
        elif what < 0.93 or not made.stamps:
            made.volume.seal()
        else:
            stamp -= 3 * SECOND
            made.volume.set_clock_back()
    return made


def tear(made: Modelled, seed: int) -> int:
    """Damages what was not durable, in whole pages or from a byte on; returns the last LSN that can be kept."""
    draw = random.Random(seed)
    segment, durable = made.volume.active, made.volume.durable_lsn
    safe = max([PAGE, *(b.end for b in segment.batches if b.entries and b.entries[-1].lsn <= durable)])
    whole = bytes(segment.data)
    if draw.random() < 0.5 and len(whole) > safe:
        cut = draw.randrange(safe, len(whole))
        segment.data[cut:] = draw.choice([b"", bytes(len(whole) - cut), draw.randbytes(len(whole) - cut)])
    else:
        for page in range(-(-safe // PAGE), -(-len(whole) // PAGE)):
            if draw.random() < 0.3:
                end = min(len(whole), page * PAGE + PAGE)
                segment.data[page * PAGE : end] = (
                    bytes(end - page * PAGE) if draw.random() < 0.5 else draw.randbytes(end - page * PAGE)
                )
    return _last_intact(made, whole)


def _last_intact(made: Modelled, whole: bytes) -> int:
    """The last record that is whole, with all before it, by comparing bytes with what was written."""
    segment = made.volume.active
    same = segment.data

    def intact(start: int, end: int) -> bool:
        return same[start:end] == whole[start:end] and len(same) >= end

    def known(offset: int, copied: bytes) -> bool:
        if intact(offset, offset + len(copied)):
            return True
        for holder in segment.batches:
            at = whole.find(copied, holder.offset + len(holder.copied), holder.end) if holder.offset > offset else -1
            if at >= 0 and intact(at, at + len(copied)) and known(holder.offset, holder.copied):
                return True
        return False

    kept = segment.previous_lsn
    for batch in segment.batches:
        for entry in batch.entries:
            if not known(batch.offset, batch.copied) or not intact(entry.offset, entry.offset + entry.stored):
                return entry.lsn - 1 if entry.lsn > batch.first_lsn else kept
        if batch.entries:
            kept = batch.entries[-1].lsn
    return kept


def _assert_reads_as(made: Modelled, folder: Path, *, torn: str = "") -> None:
    """Clean, and every LSN reads as the model. A batch that recovery kept by its echo stays lost in the file `torn`."""
    damage = [f for f in check_volume(folder).findings if f.severity == "damage"]
    assert not [f for f in damage if f.file != torn or not _SCARS.search(f.text)], damage
    store = folder.parents[1]
    for lsn, state in made.states.items():
        assert restored(store, store / "../out", f"lsn:{lsn}") == state, f"LSN {lsn}"


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 14), stop=st.booleans())
def test_every_lsn_reads_as_the_model(seed: int, steps: int, stop: bool) -> None:
    made = build(seed, steps)
    if stop:
        made.volume.stop()
    with tempfile.TemporaryDirectory() as folder:
        _assert_reads_as(made, made.volume.save(Path(folder, "store")))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 10), more=st.integers(0, 6))
def test_a_torn_tail_is_cut_where_the_first_record_is_not_whole(seed: int, steps: int, more: int) -> None:
    made = build(seed, steps)
    kept = tear(made, seed)
    with tempfile.TemporaryDirectory() as folder:
        made.forget_after(kept)
        saved = made.volume.save(Path(folder, "store"))
        assert latest(open_volume(saved).history).lsn == max(made.states)
        _assert_reads_as(made, saved)
        torn = f"segment-{made.volume.active.id:08x}"
        made.volume.crash_and_recover(kept)
        for number in range(more):
            made.append(Record(made.volume.last_stamp + number, random_parts(random.Random(seed + number))))
        _assert_reads_as(made, made.volume.save(Path(folder, "store")), torn=torn)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 14))
def test_a_time_names_the_last_record_not_after_it(seed: int, steps: int) -> None:
    made = build(seed, steps)
    epochs: dict[int, list[tuple[int, int]]] = {0: [(made.volume.created, 0)]}
    for segment in made.volume.segments:
        for entry in segment.entries(made.volume.last_lsn):
            epochs.setdefault(segment.clock_epoch, []).append((entry.stamp, entry.lsn))
    stamps = [stamp for rows in epochs.values() for stamp, _ in rows]
    with tempfile.TemporaryDirectory() as folder:
        history = open_volume(made.volume.save(Path(folder))).history
        for stamp in {exact + off for exact in stamps for off in (-1, 0, 1)}:
            if stamp < made.volume.created:
                continue
            newest = max(number for number, rows in epochs.items() if rows[0][0] <= stamp)
            wanted = max(lsn for at, lsn in epochs[newest] if at <= stamp)
            assert resolve(history, Time(stamp), max(stamps) + 1).lsn == wanted
        for lsn in made.states:
            assert resolve(history, Number(lsn), 0).lsn == lsn
