"""Small stores for the tests, with the contents that they must read back as."""

from __future__ import annotations

import contextlib
import io
import random
from dataclasses import dataclass, field
from pathlib import Path

from cdp.salvage.__main__ import main
from tests.format.writer import VolumeWriter
from tests.format.writer_segment import (
    CONTROL,
    DATA,
    MEANINGLESS,
    PAGE,
    SECTOR,
    VOID,
    VOID_PART,
    Part,
    Record,
    control,
    data,
    round_up,
    trim,
    zero,
)

SECOND = 10**9


@dataclass
class Modelled:
    """A volume and what it must read as at each LSN: a bytearray that every record is applied to."""

    volume: VolumeWriter
    states: dict[int, bytes] = field(default_factory=dict)
    stamps: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states[0] = bytes(self.volume.size)

    def append(self, *records: Record, sync: bool = False, flush: bool = False, fresh: bool = False) -> None:
        """Appends a batch and applies its records to the model."""
        state = bytearray(self.states[self.volume.last_lsn])
        for lsn, record in enumerate(records, self.volume.next_lsn):
            for part in record.parts:
                apply(state, part)
            self.states[lsn] = bytes(state)
            self.stamps[lsn] = record.stamp
        self.volume.append(list(records), sync=sync, flush=flush, fresh=fresh)

    def forget_after(self, lsn: int) -> None:
        """A recovery cut what is behind `lsn`."""
        self.states = {number: state for number, state in self.states.items() if number <= lsn}
        self.stamps = {number: stamp for number, stamp in self.stamps.items() if number <= lsn}


def apply(state: bytearray, part: Part) -> None:
    """What an entry does to the volume."""
    if part.kind in (VOID, CONTROL):
        return
    content = part.content if part.kind == DATA else bytes(part.sectors * SECTOR)
    state[part.start * SECTOR : part.start * SECTOR + len(content)] = content


def small_volume() -> Modelled:
    """Two sealed segments, every kind of record, a bookmark, flush points, a checkpoint; stopped cleanly."""
    noise = random.Random(1)
    made = Modelled(VolumeWriter(size=64 * SECTOR))
    at = made.volume.created
    made.append(
        Record(at + 1 * SECOND, (data(0, noise.randbytes(3 * SECTOR)),)),
        Record(at + 2 * SECOND, (data(10, b"a" * 8 * SECTOR), zero(18, 4))),
        sync=True,
    )
    made.append(
        Record(at + 3 * SECOND, (trim(1, 1),)),
        Record(at + 4 * SECOND, (control(type="bookmark", name="before", lsn=2),)),
        flush=True,
        fresh=True,
    )
    made.append(Record(at + 65 * SECOND, (VOID_PART,)), Record(at + 66 * SECOND, (data(50, b"xyz!" * 128),)))
    made.volume.idle()
    made.volume.seal()
    made.append(Record(at + 70 * SECOND, (data(12, noise.randbytes(SECTOR)),)))
    made.volume.checkpoint(
        [(0, 1, 1, 0), (1, 1, 3, 1), (2, 1, 1, 0), (10, 8, 2, 10), (18, 4, 2, 18), (50, 1, 6, 50)], 6
    )
    made.volume.stop()
    return made


def meaningless(volume: VolumeWriter) -> dict[str, set[int]]:
    """By file, the offsets of the bytes that mean nothing: those between batches, and before a footer."""
    found = {}
    for segment in volume.segments:
        ends = [PAGE, *(batch.end for batch in segment.batches)]
        starts = [batch.offset for batch in segment.batches]
        starts.append(segment.footer_offset or round_up(ends[-1], PAGE))
        gaps = {at for end, start in zip(ends, starts, strict=True) for at in range(end, start)}
        assert all(segment.data[at] == MEANINGLESS[0] for at in gaps if at < len(segment.data))
        found[f"segment-{segment.id:08x}"] = gaps
    return found


def salvage(store: Path, *words: str) -> int:
    """Runs the reference reader's command line in this process; returns its exit code."""
    return main([*words, "--store", str(store)])


def restored(store: Path, target: Path, at: str, *more: str) -> bytes | int:
    """The volume `disk` at `at`; the exit code where the restore fails."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = salvage(store, "restore", "disk", "--at", at, "--to", str(target), *more)
    return target.read_bytes() if code == 0 else code
