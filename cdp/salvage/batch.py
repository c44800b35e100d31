"""Batch headers, directory entries and payloads (docs/format.md, "Batches").

A header counts only with its directory: one checksum covers both. Each payload has a checksum of its own, bound to the
volume and to the LSN and place of its entry, so that no stale payload can pass for another.
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
DATA, ZERO, TRIM, VOID, CONTROL, DAMAGED, ROLLBACK = 1, 2, 3, 4, 5, 6, 7
COVERING = {DATA: "data", ZERO: "zero", TRIM: "trim", DAMAGED: "damaged"}  # the kinds that cover sectors
DATA_SECTORS_MAX = 128
CONTROL_BYTES_MAX = 1 << 20
_HEADER = struct.Struct("<4sIQQQQIIIIII")
_ENTRY = struct.Struct("<IHIHBHBI")
_CONTINUES = 0x80


class PayloadError(Exception):
    """A stored payload is not what was written; the text says in which way."""


class Entry(NamedTuple):
    """A directory entry in its place: `start` and `sectors` in sectors, `stamp` in ns, `offset` of the payload's CRC.

    The `start` of a rollback is the LSN that it goes back to.
    """

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
    record_count: int
    directory: bytes | None = None

    @property
    def last_lsn(self) -> int:
        """The LSN of the last record; where there is none, the one before `first_lsn`."""
        return self.first_lsn + self.record_count - 1

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
    """The batch of these bytes, None unless magic, checksum and shape are right."""
    fields = _HEADER.unpack(header)
    magic, crc, first, previous, base, durable, offset, entries, echo, payload, clock, flags = fields
    if magic != MAGIC or len(directory) != entries * ENTRY_BYTES:
        return None
    if crc != crc32c(memoryview(header)[8:], directory, nonce):
        return None
    shape = _shape(directory)
    if shape is None or shape[1] != payload or previous >= first:
        return None
    numbers = (first, previous, base, durable, entries, echo, payload, clock, flags, crc)
    return Batch(segment, offset, *numbers, shape[0], directory if keep else None)


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


def _shape(directory: bytes) -> tuple[int, int] | None:
    """The records and stored bytes of a directory, None where an entry breaks the rules on its kind."""
    records = stored = 0
    for start, start_high, sectors, sectors_high, bits, stored_low, stored_high, _ in _ENTRY.iter_unpack(directory):
        size = stored_low | stored_high << 16
        new = not bits & _CONTINUES
        if (
            bits & 0x70
            or not (new or (records and bits & 0x0F != ROLLBACK))
            or not fits(bits & 0x0F, start | start_high, sectors | sectors_high << 32, size)
        ):
            return None
        records += new
        stored += size
    return records, stored


def fits(kind: int, start: int, sectors: int, stored: int) -> bool:
    """Whether an entry obeys the rules on its kind; `start` need only be 0 for a start of 0."""
    if kind == DATA:
        return 1 <= sectors <= DATA_SECTORS_MAX and 4 < stored <= 4 + sectors * SECTOR
    if kind == CONTROL:
        return not (start or sectors) and 4 <= stored <= 4 + CONTROL_BYTES_MAX
    if kind == VOID:
        return not (start or sectors or stored)
    if kind == ROLLBACK:
        return not (sectors or stored)
    return kind in COVERING and not stored


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
