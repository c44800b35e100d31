"""What format version 2 added to a volume: a horizon with points, compaction, runs, clones.

From docs/format.md alone. Which records compaction keeps is worked out as plainly as it is defined: for each instant and
each sector the record that covers it there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.format.writer import EPOCH_GAP, VolumeWriter, segment_item
from tests.format.writer_compacted import CompactedWriter
from tests.format.writer_segment import (
    CONTROL,
    COVERING,
    DATA,
    PAGE,
    ROLLBACK,
    SECTOR,
    VOID,
    Placed,
    SegmentWriter,
    close_index,
    file_header,
    run_blocks,
    run_item,
    section,
    u64,
)

PART_BLOCKS = 512


@dataclass
class HistoryWriter(VolumeWriter):
    """A volume of format version 2. `ancestors`: (base LSN, floor LSN, id), in the order of their floors."""

    version: int = 2
    horizon: int = 0
    points: list[int] = field(default_factory=list)
    ancestors: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def every_segment(self) -> list[SegmentWriter | CompactedWriter]:
        """The compacted ones, then the others."""
        return [*self.compacted, *self.segments]

    def path(self, lsn: int) -> set[int]:
        """The LSNs on the path of an LSN, as "Lineage" defines it."""
        if lsn == 0:
            return set()
        numbers = {entry.lsn for _, entry in self.entries(lsn)}
        jumps = {e.lsn: e.start for _, e in self.entries(lsn) if e.kind == ROLLBACK and self.exists(e.lsn)}
        jumps |= {floor: base for base, floor, _ in self.ancestors if floor <= lsn}
        newest = max(jumps, default=0)
        return {number for number in numbers if number > newest} | self.path(jumps.get(newest, 0))

    def exists(self, lsn: int) -> bool:
        """Whether an LSN is of this timeline."""
        return not any(base < lsn <= floor for base, floor, _ in self.ancestors)

    def instants(self) -> list[int]:
        """Every LSN that can be reached."""
        above = {e.lsn for _, e in self.entries(self.last_lsn) if e.lsn > self.horizon and self.exists(e.lsn)}
        return sorted({*self.points, self.horizon, *above})

    def retain(self, horizon: int, points: Iterable[int]) -> None:
        """Moves the horizon; what is neither above it nor a point is given up."""
        new = sorted(points)
        items = [self._mark(8, lsn) for lsn in self.points if lsn not in new]
        items += [self._mark(7, lsn) for lsn in new if lsn not in self.points]
        self.horizon, self.points = horizon, new
        self.frame(2, self._mark(6, horizon), *items)

    def _mark(self, tag: int, lsn: int) -> bytes:
        if tag == 8:
            return struct.pack("<B7xQ80x", tag, lsn)
        stamp, clock_epoch = self.stamp_of(lsn)
        return struct.pack("<B7xQQI68x", tag, lsn, stamp, clock_epoch)

    def stamp_of(self, lsn: int) -> tuple[int, int]:
        """Stamp and clock epoch of a record; of the creation for LSN 0."""
        for segment in self.every_segment:
            for entry in segment.entries(lsn):
                if entry.lsn == lsn:
                    return entry.stamp, segment.clock_epoch
        assert lsn == 0, f"no record {lsn}"
        return self.created, 0

    def visible(self) -> set[tuple[int, int]]:
        """The names, (LSN, start), of the entries that some sector shows at some instant."""
        shown: set[tuple[int, int]] = set()
        for lsn in self.instants():
            path = self.path(lsn)
            owners: dict[int, tuple[int, int]] = {}
            for _, entry in self.entries(lsn):
                if entry.lsn in path and entry.kind in COVERING:
                    owners |= dict.fromkeys(range(entry.start, entry.start + entry.sectors), (entry.lsn, entry.start))
            shown |= set(owners.values())
        return shown

    def compact(
        self, numbers: list[int], damaged: frozenset[tuple[int, int]] = frozenset(), records_a_batch: int = 1 << 30
    ) -> None:
        """Puts one compacted segment in the place of these, which are sealed and neighbours by LSN."""
        sources = sorted((s for s in self.every_segment if s.id in numbers), key=_first_lsn)
        assert len(sources) == len(numbers)
        visible = self.visible()
        last = sources[-1].sealed
        assert last is not None
        assert last["last_lsn"] <= self.horizon
        assert len({self.writer(_first_lsn(source)) for source in sources}) == 1, "one id in its header"
        kept = [e for s in sources for e in s.entries(last["last_lsn"]) if _stays(e, visible)]
        self._segments += 1
        number, nonce = self._segments, 0x3333333333 + self._segments
        made = CompactedWriter(
            bytes.fromhex(self.writer(last["last_lsn"])), number, nonce, self.epoch, self.created,
            sources[0].clock_epoch,
        )  # fmt: skip
        made.write(sources, kept, damaged, records_a_batch)
        self.files[f"segment-{number:08x}"] = made.data
        drops = [struct.pack("<B3xI88x", 2, source.id) for source in sources]
        self.frame(2, *drops, segment_item(made), self._state(clean=False))
        for source in sources:
            del self.files[f"segment-{source.id:08x}"]
        self.segments = [segment for segment in self.segments if segment not in sources]
        self.compacted = [segment for segment in self.compacted if segment not in sources] + [made]

    def drop(self, number: int) -> None:
        """Drops a sealed segment in which nothing can be reached any more."""
        self.frame(2, struct.pack("<B3xI88x", 2, number))
        del self.files[f"segment-{number:08x}"]
        self.segments = [segment for segment in self.segments if segment.id != number]

    def writer(self, lsn: int) -> str:
        """The id of the timeline that wrote a record."""
        return [*(name for _, floor, name in self.ancestors if lsn <= floor), self.id][0]

    def run(self, level: int, first_lsn: int, last_lsn: int) -> None:
        """Writes a run of what the segments hold now, from `first_lsn` to `last_lsn`."""
        self._runs += 1
        number, nonce = self._runs, 0x5555 + self._runs
        rows = [row for row in self.entries(last_lsn) if row[1].lsn >= first_lsn and row[1].kind in COVERING]
        table = sorted({segment for segment, entry in rows if entry.kind == DATA})
        items = [run_item(e, table.index(segment) if e.kind == DATA else 0) for segment, e in rows]
        blocks, narrow = run_blocks(items, u64(nonce))
        index = b"".join(block for block, _ in blocks)
        fences_offset = PAGE + len(index)
        top = b""
        for part in [*batched(blocks[:narrow], PART_BLOCKS), *batched(blocks[narrow:], PART_BLOCKS)]:
            fences = b"".join(fence for _, fence in part)
            index = section(index, b"FENC", fences, u64(nonce))
            spans = list(struct.iter_unpack("<QQ8x", fences))
            top += struct.pack("<QQ", min(start for start, _ in spans), max(end for _, end in spans))
        tables_offset = PAGE + len(index)
        index = section(index, b"SEGS", b"".join(u64(segment) for segment in table), u64(nonce))
        index = section(index, b"TOPF", top, u64(nonce))
        sizes = (narrow, len(blocks) - narrow, fences_offset, tables_offset, len(items), first_lsn, last_lsn)
        trailer = struct.pack("<7Q24x", *sizes)
        header = file_header(b"CDPRUN01", bytes.fromhex(self.id), number, nonce, self.epoch, self.created)
        content = header + close_index(index, b"CDPRUNT1", u64(nonce), trailer)
        self.files[f"run-{number:08x}"] = bytearray(content)
        item = struct.pack("<B3xIQ8xI4xQQ24xQ16x", 9, number, nonce, level, first_lsn, last_lsn, len(content))
        self.frame(2, item, self._state(clean=False))

    def drop_run(self, number: int) -> None:
        """Drops a run."""
        self.frame(2, struct.pack("<B3xI88x", 10, number))
        del self.files[f"run-{number:08x}"]

    def clone(self, base: int, name: str, identity: str) -> HistoryWriter:
        """A volume that shares everything up to `base`, an instant in a sealed segment, and goes on from there."""
        floor = self.next_lsn + 100
        made = HistoryWriter(name=name, id=identity, size=self.size, created=self.last_stamp + 1)
        own = made.segments.pop()  # opened by its writer before it knew what it is
        del made.files[f"segment-{own.id:08x}"]
        made.ancestors = [*self.ancestors, (base, floor, self.id)]
        shared = [s for s in self.every_segment if s.sealed and s.sealed["first_lsn"] <= base]
        made.compacted = [segment for segment in shared if isinstance(segment, CompactedWriter)]
        made.segments = [segment for segment in shared if isinstance(segment, SegmentWriter)]
        made.files |= {f"segment-{s.id:08x}": self.files[f"segment-{s.id:08x}"] for s in shared}
        made._segments = self._segments
        made.last_lsn, made.last_stamp, made.durable_lsn = base, self.stamp_of(base)[0], base
        made.next_lsn = floor + 1
        made.clock_epoch = self.stamp_of(base)[1]
        made.horizon = base
        ancestors = [struct.pack("<B7xQQ16s56x", 11, at, end, bytes.fromhex(who)) for at, end, who in made.ancestors]
        made.frame(1, made._state(clean=False), made._mark(6, base), *ancestors, *map(segment_item, shared))
        made.start()
        return made


def batched(blocks: list[tuple[bytes, bytes]], count: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """`count` blocks at a time."""
    for at in range(0, len(blocks), count):
        yield blocks[at : at + count]


def _stays(entry: Placed, visible: set[tuple[int, int]]) -> bool:
    """Control records stay here, as rollbacks do; a writer may give up those that say nothing any more."""
    if entry.kind in (CONTROL, ROLLBACK):
        return True
    return entry.kind != VOID and (entry.lsn, entry.start) in visible


def _first_lsn(segment: SegmentWriter | CompactedWriter) -> int:
    assert segment.sealed is not None
    return segment.sealed["first_lsn"]


__all__ = ["EPOCH_GAP", "SECTOR", "HistoryWriter"]
