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
from tests.format.writer_history import HistoryWriter
from tests.format.writer_segment import (
    COVERING,
    DATA,
    ROLLBACK,
    SECTOR,
    VOID_PART,
    Part,
    Record,
    control,
    data,
    rollback,
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
                if part.kind == ROLLBACK:
                    state[:] = self.states[part.start]
                apply(state, part)
                if part.fields and part.fields.get("type") == "resize":
                    state = bytearray(state.ljust(int(str(part.fields["size"])), b"\0"))
            self.states[lsn] = bytes(state)
            self.stamps[lsn] = record.stamp
        self.volume.append(list(records), sync=sync, flush=flush, fresh=fresh)

    def forget_after(self, lsn: int) -> None:
        """A recovery cut what is behind `lsn`."""
        self.states = {number: state for number, state in self.states.items() if number <= lsn}
        self.stamps = {number: stamp for number, stamp in self.stamps.items() if number <= lsn}


@dataclass
class Branching(Modelled):
    """A volume of format version 2."""

    @property
    def history(self) -> HistoryWriter:
        """The volume, with what version 2 added."""
        assert isinstance(self.volume, HistoryWriter)
        return self.volume

    def retain(self, horizon: int, *points: int) -> None:
        """Moves the horizon; the model forgets what cannot be reached any more."""
        self.history.retain(horizon, points)
        self.states = {lsn: state for lsn, state in self.states.items() if lsn in self.history.instants()}

    def clone(self, base: int, name: str, identity: str) -> Branching:
        """A volume that goes on from `base`, with a model of its own."""
        made = Branching(self.history.clone(base, name, identity))
        made.states = {base: self.states[base]}
        return made


def extents_at(volume: VolumeWriter, lsn: int) -> list[tuple[int, int, int, int]]:
    """The map at an LSN as `VolumeWriter.checkpoint` takes it, from a plain list with one item a sector."""
    shown: list[tuple[int, int] | None] = [None] * (volume.size // SECTOR)  # LSN and start of the entry; 0 where zeros
    owners: dict[tuple[int, int], tuple[int, int]] = {}
    path = volume.path(lsn) if isinstance(volume, HistoryWriter) else None
    for _, entry in volume.entries(lsn):
        if entry.kind not in COVERING or (path is not None and entry.lsn not in path):
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
    if part.kind not in COVERING:
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


def branched_volume() -> Branching:
    """What version 2 added, in one volume: a rollback, its undo, a horizon in the middle of it, points, a compacted segment,
    runs and checkpoints from before and after; stopped cleanly.
    """
    noise = random.Random(2)
    made = Branching(HistoryWriter(size=64 * SECTOR))
    at = made.volume.created
    made.append(*(Record(at + n * SECOND, (data(n, noise.randbytes(2 * SECTOR)),)) for n in range(1, 5)), sync=True)
    made.volume.seal()
    made.append(
        Record(at + 61 * SECOND, (data(2, b"b" * 2 * SECTOR), trim(40, 4))),
        Record(at + 62 * SECOND, (control(type="bookmark", name="five", lsn=5),)),
        Record(at + 63 * SECOND, (control(type="event", event="stall"),)),
        Record(at + 64 * SECOND, (data(0, noise.randbytes(4 * SECTOR)),)),
        sync=True,
    )
    made.volume.seal()
    made.append(
        Record(at + 65 * SECOND, (rollback(3),)),
        Record(at + 66 * SECOND, (data(30, b"after" + bytes(SECTOR - 5)),)),
        flush=True,
    )
    made.history.run(1, 1, 8)
    made.volume.checkpoint(extents_at(made.volume, 8), 8)
    made.volume.seal()
    made.append(Record(at + 67 * SECOND, (rollback(8),)), Record(at + 68 * SECOND, (zero(1, 2),)), sync=True)
    made.volume.seal()
    made.append(Record(at + 69 * SECOND, (data(9, b"last" * 128),)))
    made.retain(10, 2, 5)
    made.history.compact([1, 2], records_a_batch=3)
    made.history.run(1, 1, 12)
    made.volume.checkpoint(extents_at(made.volume, 12), 12)
    made.volume.stop()
    return made


def salvage(store: Path, *words: str) -> int:
    """Runs the reference reader's command line in this process; returns its exit code."""
    return main([*words, "--store", str(store)])


def restored(store: Path, target: Path, at: str, *more: str, name: str = "disk") -> bytes | int:
    """The volume at `at`; the exit code where the restore fails. What --allow-damage wrote counts."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = salvage(store, "restore", name, "--at", at, "--to", str(target), "--force", *more)
    written = code == 0 or (code == Corrupt.exit_code and "--allow-damage" in more)
    return target.read_bytes() if written else code
