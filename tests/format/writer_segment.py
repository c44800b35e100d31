"""Writes segments and their footers, from docs/format.md alone. Shares no code with any reader.

It is told what to write and when; it never reads.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field

import crcmod.predefined
import lz4.block

PAGE = 4096
SECTOR = 512
DATA, ZERO, TRIM, VOID, CONTROL, DAMAGED, ROLLBACK = 1, 2, 3, 4, 5, 6, 7
COVERING = (DATA, ZERO, TRIM, DAMAGED)
NARROW_SECTORS_MAX = 8192

_crc = crcmod.predefined.mkCrcFun("crc-32c")


def crc(*parts: bytes) -> int:
    """crc(a ‖ b ‖ …)."""
    return int(_crc(b"".join(parts)))


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def round_up(value: int, grain: int) -> int:
    return (value + grain - 1) // grain * grain


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass(frozen=True)
class Part:
    """One entry of a record to be written. `content` for data, `fields` for control."""

    kind: int
    start: int = 0
    sectors: int = 0
    content: bytes = b""
    fields: dict[str, object] | None = None


def data(start: int, content: bytes) -> Part:
    return Part(DATA, start, len(content) // SECTOR, content)


def zero(start: int, sectors: int) -> Part:
    return Part(ZERO, start, sectors)


def trim(start: int, sectors: int) -> Part:
    return Part(TRIM, start, sectors)


def control(**fields: object) -> Part:
    return Part(CONTROL, fields=fields)


def rollback(to_lsn: int) -> Part:
    return Part(ROLLBACK, to_lsn)


VOID_PART = Part(VOID)


@dataclass(frozen=True)
class Record:
    """One request: its stamp in ns and its entries."""

    stamp: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Placed:
    """An entry where it was written."""

    lsn: int
    stamp: int
    kind: int
    start: int
    sectors: int
    offset: int
    stored: int
    payload: bytes


@dataclass(frozen=True)
class PlacedBatch:
    """A batch where it was written; `copied` is its header and directory."""

    offset: int
    first_lsn: int
    base_stamp: int
    durable_lsn: int
    flags: int
    copied: bytes
    end: int
    entries: tuple[Placed, ...]


@dataclass
class SegmentWriter:
    """One segment in memory; `data` is its file."""

    volume: bytes
    id: int
    nonce: int
    epoch: int
    created: int
    previous_lsn: int
    clock_epoch: int = 0
    data: bytearray = field(default_factory=bytearray)
    batches: list[PlacedBatch] = field(default_factory=list)
    unechoed: list[PlacedBatch] = field(default_factory=list)
    last_lsn: int = -1
    sealed: dict[str, int] | None = None

    def __post_init__(self) -> None:
        self.data += file_header(b"CDPSEG01", self.volume, self.id, self.nonce, self.epoch, self.created)
        self.last_lsn = self.previous_lsn

    def append(
        self, first_lsn: int, records: list[Record], durable_lsn: int, *, flush: bool = False, fresh: bool = False
    ) -> None:
        """Appends a batch, on a fresh page after a sync."""
        offset = round_up(len(self.data), PAGE if fresh else 64)
        self.data += bytes(offset - len(self.data))
        echoed = [b for b in self.unechoed if b.entries and (b.offset + len(b.copied) - 1) // PAGE < offset // PAGE]
        self.unechoed = [b for b in self.unechoed if b not in echoed]
        echo = b"".join(b.copied for b in echoed)
        base = min((r.stamp for r in records), default=self.created)
        count = sum(len(r.parts) for r in records)
        at = offset + 64 + 20 * count + len(echo)
        directory = bytearray()
        placed = []
        for lsn, record in enumerate(records, first_lsn):
            for number, part in enumerate(record.parts):
                payload = self._payload(part, lsn)
                placed.append(Placed(lsn, record.stamp, part.kind, part.start, part.sectors, at, len(payload), payload))
                directory += part.start.to_bytes(6, "little") + part.sectors.to_bytes(6, "little")
                directory.append(part.kind | (0x80 if number else 0))
                directory += len(payload).to_bytes(3, "little") + (record.stamp - base).to_bytes(4, "little")
                at += len(payload)
        payloads = b"".join(p.payload for p in placed)
        fixed = struct.pack(
            "<QQQQIIIIII",
            first_lsn, self.last_lsn, base, durable_lsn, offset, count, len(echo), len(payloads), self.clock_epoch, int(flush),
        )  # fmt: skip
        header = b"CDPB" + struct.pack("<I", crc(fixed, bytes(directory), u64(self.nonce))) + fixed
        copied = header + bytes(directory)
        self.data += copied + echo + payloads
        batch = PlacedBatch(offset, first_lsn, base, durable_lsn, int(flush), copied, len(self.data), tuple(placed))
        self.batches.append(batch)
        self.unechoed.append(batch)
        if records:
            self.last_lsn = first_lsn + len(records) - 1

    def _payload(self, part: Part, lsn: int) -> bytes:
        if part.kind == CONTROL:
            stored = json.dumps(part.fields).encode()
        elif part.kind == DATA:
            packed = lz4.block.compress(part.content, store_size=False)
            stored = packed if len(packed) < len(part.content) else part.content
        else:
            return b""
        return struct.pack("<I", crc(stored, self.volume[:8], u64(lsn), u64(part.start))) + stored

    def entries(self, last_lsn: int) -> list[Placed]:
        """The entries up to an LSN."""
        return [entry for batch in self.batches for entry in batch.entries if entry.lsn <= last_lsn]

    def seal(self, last_lsn: int | None = None) -> None:
        """Writes the footer and keeps the fields of the manifest's item in `sealed`.

        With `last_lsn`, what recovery does: records behind it do not count, and the footer goes behind what is left.
        """
        last_lsn = self.last_lsn if last_lsn is None else last_lsn
        tail = max(batch.end for batch in self.batches if self._counts(batch, last_lsn))
        offset = round_up(max(len(self.data), tail), PAGE)
        self.data += bytes(offset - len(self.data))
        entries = self.entries(last_lsn)
        ends = {
            "clock_epoch": self.clock_epoch,
            "first_lsn": entries[0].lsn,
            "last_lsn": entries[-1].lsn,
            "first_stamp": entries[0].stamp,
            "last_stamp": entries[-1].stamp,
        }
        facts = FooterFacts(
            entries,
            minutes_of(entries),
            self._stamps(last_lsn),
            self._flush_points(last_lsn),
            tail,
            crc(bytes(self.data[tail:])),
        )
        self.data += footer(self.id, u64(self.nonce), offset, ends, facts)
        ends |= {"entries": len(entries), "footer_offset": offset, "file_bytes": len(self.data)}
        self.sealed = ends | {"previous_lsn": self.previous_lsn}

    def _counts(self, batch: PlacedBatch, last_lsn: int) -> bool:
        """Whether a batch can still be read, by its header or an echo, and stands at or before the last record."""
        before = batch.first_lsn <= last_lsn or (not batch.entries and batch.first_lsn <= last_lsn + 1)
        return before and batch.copied in self.data

    def _stamps(self, last_lsn: int) -> bytes:
        out = b""
        seen = listed = listed_at = 0
        for batch in self.batches:
            count = sum(1 for entry in batch.entries if entry.lsn <= last_lsn)
            if count and (not out or seen - listed >= 256 or batch.offset - listed_at >= 1 << 16):
                out += struct.pack("<QQQ", batch.first_lsn, batch.base_stamp, batch.offset)
                listed, listed_at = seen, batch.offset
            seen += count
        return out

    def _flush_points(self, last_lsn: int) -> bytes:
        points = sorted({b.durable_lsn for b in self.batches if b.flags & 1 and self._counts(b, last_lsn)})
        return b"".join(varint(p - before) for before, p in zip([0, *points], points, strict=False))


@dataclass(frozen=True)
class FooterFacts:
    """What a footer is made from: the entries that count, and the bodies of STAT (a row a minute), STMP and FLSH."""

    entries: list[Placed]
    minutes: dict[int, list[int]]
    stamps: bytes
    flush_points: bytes
    tail: int
    tail_crc: int


def footer(number: int, nonce: bytes, offset: int, ends: dict[str, int], facts: FooterFacts) -> bytes:
    """The footer of a segment, which begins at `offset`."""
    shown = [run_item(entry, 0) for entry in facts.entries if entry.kind in COVERING]
    blocks, narrow = run_blocks(shown, nonce)
    out = b"".join(block for block, _ in blocks)
    sections_offset = offset + len(out)
    bodies = [
        (b"SEGS", u64(number) if any(item.kind == DATA for item in shown) else b""),
        (b"FENC", b"".join(fence for _, fence in blocks)),
        (b"CTRL", controls_body(control_rows(facts.entries))),
        (b"STMP", facts.stamps),
        (b"FLSH", facts.flush_points),
        (b"STAT", _stat(facts.minutes)),
    ]
    for tag, body in bodies:
        out = section(out, tag, body, nonce)
    numbers = (offset, narrow, len(blocks) - narrow, sections_offset, len(bodies), len(shown))
    trailer = Trailer(*numbers, **ends, tail_offset=facts.tail, tail_crc=facts.tail_crc)
    return close_index(out, b"CDPFOOT1", nonce, trailer)


def control_rows(entries: Iterable[Placed]) -> Iterator[tuple[int, int, bytes]]:
    """The rows of CTRL: control records, and rollbacks as JSON."""
    for entry in entries:
        if entry.kind == CONTROL:
            yield entry.lsn, entry.stamp, entry.payload[4:]
        elif entry.kind == ROLLBACK:
            yield entry.lsn, entry.stamp, b'{"type":"rollback","to":%d}' % entry.start


def file_header(
    magic: bytes, volume: bytes, number: int, nonce: int, epoch: int, created: int, version: int = 1
) -> bytes:
    """Page 0 of a segment, run or checkpoint."""
    fixed = struct.pack("<16sIIQQQ", volume, number, 0, nonce, epoch, created).ljust(PAGE - 16, b"\0")
    start = magic + struct.pack("<I", version)
    return start + struct.pack("<I", crc(start, fixed)) + fixed


@dataclass(frozen=True)
class RunItem:
    """An entry of a run."""

    start: int
    lsn: int
    kind: int
    sectors: int
    segment_index: int
    offset: int
    stored: int
    skip: int = 0
    whole: int = 0


def run_item(entry: Placed, segment_index: int) -> RunItem:
    """The whole of an entry; a trim as a zero, for both read as zeros."""
    kind = ZERO if entry.kind == TRIM else entry.kind
    return RunItem(entry.start, entry.lsn, kind, entry.sectors, segment_index, entry.offset, entry.stored)


def run_blocks(items: list[RunItem], nonce: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """Blocks with their fences, narrow ones first, and how many are narrow."""
    ordered = sorted(items, key=lambda item: (item.start, item.lsn))
    narrow = _pack_blocks([i for i in ordered if i.sectors <= NARROW_SECTORS_MAX], nonce)
    wide = _pack_blocks([i for i in ordered if i.sectors > NARROW_SECTORS_MAX], nonce)
    return narrow + wide, len(narrow)


def _pack_blocks(items: list[RunItem], nonce: bytes) -> list[tuple[bytes, bytes]]:
    blocks = []
    while items:
        count = len(items)
        while len(packed := _encode(items[:count])) > PAGE - 24:
            count = count * (PAGE - 24) // len(packed) if count > 8 else count - 1
        part, items = items[:count], items[count:]
        base = min(item.lsn for item in part)
        body = struct.pack("<HHQQ", count, 24 + len(packed), part[0].start, base) + packed
        body = body.ljust(PAGE - 4, b"\0")
        end = max(item.start + item.sectors for item in part)
        blocks.append(
            (struct.pack("<I", crc(body, nonce)) + body, struct.pack("<QQQ", part[0].start, end, part[0].lsn))
        )
    return blocks


def _encode(items: list[RunItem]) -> bytes:
    base = min(item.lsn for item in items)
    before = items[0].start
    out = b""
    for item in items:
        sliced = item.kind == DATA and item.whole not in (0, item.sectors)
        out += varint(item.kind | (0x10 if sliced else 0)) + varint(item.start - before) + varint(item.sectors)
        out += varint(item.lsn - base) + varint(item.segment_index)
        if item.kind == DATA:
            out += varint(item.offset) + varint(item.stored)
        if sliced:
            out += varint(item.skip) + varint(item.whole)
        before = item.start
    return out


def section(out: bytes, tag: bytes, body: bytes, nonce: bytes) -> bytes:
    """`out` with a section behind it, at a multiple of 8."""
    out = out.ljust(round_up(len(out), 8), b"\0")
    return out + tag + struct.pack("<IQ", crc(tag, u64(len(body)), body, nonce), len(body)) + body


def controls_body(controls: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The body of CTRL."""
    return b"".join(struct.pack("<QQI", lsn, stamp, len(text)) + text for lsn, stamp, text in controls)


@dataclass(frozen=True)
class Trailer:
    """The fields of a trailer; what a file does not use is zero."""

    index_offset: int = 0
    narrow: int = 0
    wide: int = 0
    sections_offset: int = 0
    sections: int = 0
    entries: int = 0
    first_lsn: int = 0
    last_lsn: int = 0
    first_stamp: int = 0
    last_stamp: int = 0
    clock_epoch: int = 0
    tail_offset: int = 0
    tail_crc: int = 0


def close_index(out: bytes, magic: bytes, nonce: bytes, trailer: Trailer | bytes) -> bytes:
    """`out`, which begins on a page, padded and with the trailer behind it."""
    fixed = trailer if isinstance(trailer, bytes) else struct.pack("<QIIQIIQQQQIQI", *astuple(trailer))
    out = out.ljust(round_up(len(out) + 96, PAGE) - 96, b"\0")
    start = magic + struct.pack("<I", 1)
    return out + start + struct.pack("<I", crc(start, fixed, nonce)) + fixed


def minutes_of(entries: list[Placed]) -> dict[int, list[int]]:
    """The rows of STAT by minute: data records, zero and trim records, raw bytes, stored bytes."""
    minutes: dict[int, list[int]] = {}
    before = -1
    for entry in entries:
        new, before = entry.lsn != before, entry.lsn
        row = minutes.setdefault(entry.stamp // (60 * 10**9), [0, 0, 0, 0])
        if entry.kind == DATA:
            row[0] += new
            row[2] += entry.sectors * SECTOR
            row[3] += entry.stored
        elif entry.kind in (ZERO, TRIM):
            row[1] += new
    return minutes


def _stat(minutes: dict[int, list[int]]) -> bytes:
    return b"".join(struct.pack("<QQQQQ", minute, *row) for minute, row in sorted(minutes.items()))
