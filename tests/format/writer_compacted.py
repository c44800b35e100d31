"""Writes compacted segments, from docs/format.md alone. Shares no code with any reader."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby

from tests.format.writer_segment import (
    DAMAGED,
    DATA,
    PAGE,
    FooterFacts,
    Placed,
    SegmentWriter,
    crc,
    file_header,
    footer,
    minutes_of,
    round_up,
    u64,
)

ACTIVITY = 8


@dataclass
class CompactedWriter:
    """A compacted segment in memory. `volume` is the id of the timeline that wrote its records."""

    volume: bytes
    id: int
    nonce: int
    epoch: int
    created: int
    clock_epoch: int
    minutes: dict[int, list[int]] = field(default_factory=dict)
    placed: list[Placed] = field(default_factory=list)
    batch_offsets: list[int] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    sealed: dict[str, int] = field(default_factory=dict)

    def write(
        self,
        sources: list[SegmentWriter | CompactedWriter],
        kept: list[Placed],
        damaged: frozenset[tuple[int, int]] = frozenset(),
        records_a_batch: int = 1 << 30,
    ) -> None:
        """Writes all of it in the place of `sources`, neighbours by LSN. `damaged` names (by LSN and start) data entries whose payloads cannot be read any more."""
        items = [source.sealed for source in sources if source.sealed]
        self.minutes = summed([stat_of(source) for source in sources])
        self.data += file_header(b"CDPSEG01", self.volume, self.id, self.nonce, self.epoch, self.created, version=2)
        last_lsn, last_stamp = items[-1]["last_lsn"], items[-1]["last_stamp"]
        rows = b"".join(struct.pack("<QQQQQ", minute, *row) for minute, row in sorted(self.minutes.items()))
        payload = struct.pack("<I", crc(rows, self.volume[:8], u64(last_lsn), u64(0))) + rows
        activity = Placed(last_lsn, last_stamp, ACTIVITY, 0, 0, 0, len(payload), payload)
        entries = [_lost(e) if e.kind == DATA and (e.lsn, e.start) in damaged else e for e in kept]
        before = 0
        for batch in _batches([*entries, activity], records_a_batch):
            self._append(batch, before)
            before = batch[-1].lsn
        tail = len(self.data)
        offset = round_up(tail, PAGE)
        self.data += bytes(offset - tail)
        ends = {
            "clock_epoch": self.clock_epoch,
            "first_lsn": items[0]["first_lsn"],
            "last_lsn": last_lsn,
            "first_stamp": items[0]["first_stamp"],
            "last_stamp": last_stamp,
        }
        facts = FooterFacts(self.placed, self.minutes, b"", b"", tail, crc(bytes(self.data[tail:])))
        self.data += footer(self.id, u64(self.nonce), offset, ends, facts)
        ends |= {"entries": len(self.placed), "footer_offset": offset, "file_bytes": len(self.data)}
        self.sealed = ends | {"previous_lsn": items[0]["previous_lsn"]}

    def _append(self, entries: list[Placed], before: int) -> None:
        offset = round_up(len(self.data), PAGE)
        self.data += bytes(offset - len(self.data))
        at = offset + 64 + 32 * len(entries)
        directory = b""
        for entry in entries:
            directory += entry.start.to_bytes(6, "little") + entry.sectors.to_bytes(6, "little")
            directory += bytes([entry.kind]) + entry.stored.to_bytes(3, "little")
            directory += struct.pack("<QQ", entry.lsn, entry.stamp)
            self.placed.append(replace(entry, offset=at))
            at += entry.stored
        payloads = b"".join(entry.payload for entry in entries)
        fixed = struct.pack("<QQ16xII4xI8x", entries[0].lsn, before, offset, len(entries), len(payloads))
        self.data += b"CDPK" + struct.pack("<I", crc(fixed, directory, u64(self.nonce))) + fixed + directory + payloads
        self.batch_offsets.append(offset)

    def entries(self, last_lsn: int) -> list[Placed]:
        """The entries up to an LSN, without the activity."""
        return [entry for entry in self.placed if entry.lsn <= last_lsn and entry.kind != ACTIVITY]


def stat_of(segment: SegmentWriter | CompactedWriter) -> dict[int, list[int]]:
    """The rows of STAT of a sealed segment."""
    if isinstance(segment, CompactedWriter):
        return segment.minutes
    assert segment.sealed is not None
    return minutes_of(segment.entries(segment.sealed["last_lsn"]))


def summed(tables: list[dict[int, list[int]]]) -> dict[int, list[int]]:
    """Rows of several segments added up by minute."""
    out: dict[int, list[int]] = {}
    for table in tables:
        for minute, row in table.items():
            out[minute] = [a + b for a, b in zip(out.get(minute, [0] * 4), row, strict=True)]
    return out


def _lost(entry: Placed) -> Placed:
    return replace(entry, kind=DAMAGED, stored=0, payload=b"")


def _batches(entries: list[Placed], records: int) -> Iterator[list[Placed]]:
    """Entries of one LSN stay together."""
    batch: list[Placed] = []
    count = 0
    for _, record in groupby(entries, key=lambda entry: entry.lsn):
        if count == records:
            yield batch
            batch, count = [], 0
        batch += record
        count += 1
    yield batch
