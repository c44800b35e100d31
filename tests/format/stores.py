"""Small stores for the tests, with the contents that they must read back as."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path

from cdp.errors import Corrupt
from cdp.salvage.__main__ import main
from tests.format.writer import VolumeWriter
from tests.format.writer_segment import (
    CONTROL,
    DATA,
    SECTOR,
    VOID,
    VOID_PART,
    Part,
    Record,
    control,
    data,
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


def extents_at(volume: VolumeWriter, lsn: int) -> list[tuple[int, int, int, int]]:
    """The map at an LSN as `VolumeWriter.checkpoint` takes it, from a plain list with one item a sector."""
    shown: list[tuple[int, int] | None] = [None] * (volume.size // SECTOR)  # LSN and start of the entry; 0 where zeros
    owners: dict[tuple[int, int], tuple[int, int]] = {}
    for segment in volume.segments:
        for entry in segment.entries(lsn):
            if entry.kind in (VOID, CONTROL):
                continue
            mark = (entry.lsn, entry.start) if entry.kind == DATA else (0, 0)
            owners.setdefault(mark, (entry.lsn, entry.start))
            shown[entry.start : entry.start + entry.sectors] = [mark] * entry.sectors
    extents = []
    start = 0
    for owner, run in itertools.groupby(shown):
        sectors = len(list(run))
        if owner is not None:
            extents.append((start, sectors, *owners[owner]))
        start += sectors
    return extents


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
    made.volume.checkpoint(extents_at(made.volume, 6), 6)
    made.volume.stop()
    return made


def salvage(store: Path, *words: str) -> int:
    """Runs the reference reader's command line in this process; returns its exit code."""
    return main([*words, "--store", str(store)])


def restored(store: Path, target: Path, at: str, *more: str) -> bytes | int:
    """The volume `disk` at `at`; the exit code where the restore fails. What --allow-damage wrote counts."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = salvage(store, "restore", "disk", "--at", at, "--to", str(target), "--force", *more)
    written = code == 0 or (code == Corrupt.exit_code and "--allow-damage" in more)
    return target.read_bytes() if written else code
