"""Batch headers, directory entries and payloads (docs/format.md, "Batches").

A header counts only with its directory: one checksum covers both. Each payload has a checksum of its own, bound to the
segment's nonce and to the LSN and place of its entry, so that no stale payload can pass for another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import lz4.block

from cdp.salvage.crc import crc32c
from cdp.salvage.files import SECTOR, StoredFile

MAGIC = b"CDPB"
HEADER_BYTES = 64
ENTRY_BYTES = 20
DATA, ZERO, TRIM, VOID, CONTROL, DAMAGED = 1, 2, 3, 4, 5, 6
KIND_NAMES = {DATA: "data", ZERO: "zero", TRIM: "trim", VOID: "void", CONTROL: "control", DAMAGED: "damaged"}
DATA_SECTORS_MAX = 128
CONTROL_BYTES_MAX = 1 << 20
_HEADER = struct.Struct("<4sIQQQQIIIIII")
_ENTRY = struct.Struct("<IHIHBHBI")
_CONTINUES = 0x80


class PayloadError(Exception):
    """A stored payload is not what was written; the text says in which way."""


class Entry(NamedTuple):
    """A directory entry in its place: `start` and `sectors` in sectors, `stamp` in ns, `offset` of the payload's CRC."""

    lsn: int
    stamp: int
    kind: int
    start: int
    sectors: int
    offset: int
    stored: int
    segment: int

    @property
    def end(self) -> int:
        """The sector behind the entry's last."""
        return self.start + self.sectors


@dataclass(frozen=True, slots=True)
class Batch:
    """A valid batch header: offsets in bytes of the segment's file, `base_stamp` in ns.

    `directory` is kept only where an echo stands in for an original that is lost.
    """

    segment: int
    offset: int
    first_lsn: int
    previous_lsn: int
    base_stamp: int
    durable_lsn: int
    entry_count: int
    echo_bytes: int
    payload_bytes: int
    clock_epoch: int
    flags: int
    crc: int
    directory: bytes | None = None

    @property
    def directory_end(self) -> int:
        """Where the directory ends and the echo begins."""
        return self.offset + HEADER_BYTES + ENTRY_BYTES * self.entry_count

    @property
    def payload_offset(self) -> int:
        """Where the first payload lies."""
        return self.directory_end + self.echo_bytes

    @property
    def end(self) -> int:
        """The byte behind the last payload."""
        return self.payload_offset + self.payload_bytes

    @property
    def is_flush_point(self) -> bool:
        """Whether a client asked for what made `durable_lsn` durable."""
        return bool(self.flags & 1)


def decode_batch(segment: int, nonce: bytes, header: bytes, directory: bytes, *, keep: bool = False) -> Batch | None:
    """The batch of these bytes, None unless magic, directory length and checksum are right."""
    fields = _HEADER.unpack(header)
    magic, crc, first, previous, base, durable, offset, entries, echo, payload, clock, flags = fields
    if magic != MAGIC or len(directory) != entries * ENTRY_BYTES:
        return None
    if crc != crc32c(memoryview(header)[8:], directory, nonce):
        return None
    kept = directory if keep else None
    return Batch(segment, offset, first, previous, base, durable, entries, echo, payload, clock, flags, crc, kept)


def directory_bytes(header: bytes) -> int:
    """How long a directory a header announces; the header may be anything."""
    return int.from_bytes(header[44:48], "little") * ENTRY_BYTES


def entries_of(batch: Batch, directory: bytes) -> Iterator[Entry]:
    """The entries in their order, which is the order of their LSNs."""
    lsn = batch.first_lsn - 1
    offset = batch.payload_offset
    for low, high, count_low, count_high, kind, stored_low, stored_high, delta in _ENTRY.iter_unpack(directory):
        if not kind & _CONTINUES:
            lsn += 1
        stored = stored_low | stored_high << 16
        start, sectors = low | high << 32, count_low | count_high << 32
        yield Entry(lsn, batch.base_stamp + delta, kind & 0x0F, start, sectors, offset, stored, batch.segment)
        offset += stored


def record_count(directory: bytes) -> int:
    """How many records, that is LSNs, a directory holds."""
    kinds = directory[12::ENTRY_BYTES]
    return sum(1 for kind in kinds if not kind & _CONTINUES)


def rule_broken(batch: Batch, directory: bytes) -> str:
    """Which rule on entries a directory breaks, empty where it keeps them all. Only a wrong writer can cause this."""
    stored = 0
    for number, entry in enumerate(entries_of(batch, directory)):
        bits = directory[number * ENTRY_BYTES + 12]
        stored += entry.stored
        if bits & 0x70 or entry.kind not in KIND_NAMES:
            return f"entry {number}: unknown kind {bits:#04x}"
        if number == 0 and bits & _CONTINUES:
            return "the first entry continues a record of another batch"
        if not _sizes_fit(entry):
            return f"entry {number}: {KIND_NAMES[entry.kind]} of {entry.sectors} sectors in {entry.stored} stored bytes"
    return (
        "" if stored == batch.payload_bytes else f"entries store {stored} bytes, the header says {batch.payload_bytes}"
    )


def _sizes_fit(entry: Entry) -> bool:
    if entry.kind == DATA:
        return 1 <= entry.sectors <= DATA_SECTORS_MAX and 4 < entry.stored <= 4 + entry.sectors * SECTOR
    if entry.kind == CONTROL:
        return entry.start == entry.sectors == 0 and 4 <= entry.stored <= 4 + CONTROL_BYTES_MAX
    if entry.kind == VOID:
        return entry.start == entry.sectors == entry.stored == 0
    return entry.sectors > 0 and entry.stored == 0


def checked_payload(file: StoredFile, nonce: bytes, entry: Entry) -> bytes:
    """The stored bytes of a payload, behind its checksum. Raises PayloadError."""
    stored = file.read(entry.offset, entry.stored)
    if len(stored) < max(entry.stored, 4):
        raise PayloadError(f"payload at {entry.offset}: the file ends {entry.stored - len(stored)} bytes too early")
    body = memoryview(stored)[4:]
    place = entry.lsn.to_bytes(8, "little") + entry.start.to_bytes(8, "little")
    if int.from_bytes(stored[:4], "little") != crc32c(body, nonce, place):
        raise PayloadError(f"payload at {entry.offset}: the checksum is wrong")
    return bytes(body)


def content_of(file: StoredFile, nonce: bytes, entry: Entry) -> bytes:
    """The `512 x sectors` bytes that a data entry wrote. Raises PayloadError."""
    body = checked_payload(file, nonce, entry)
    size = entry.sectors * SECTOR
    if len(body) == size:
        return body
    try:
        content: bytes = lz4.block.decompress(body, uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
        raise PayloadError(f"payload at {entry.offset}: not LZ4: {error}") from None
    if len(content) != size:
        raise PayloadError(f"payload at {entry.offset}: decodes to {len(content)} bytes, not {size}")
    return content
