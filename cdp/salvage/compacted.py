"""Compacted segments: batches whose entries have LSNs and stamps of their own (docs/format.md, "Compacted segments").

Such a segment is whole before it is named, so a batch that is not where it must be is damage. Where each record lies is
said once more by the footer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from cdp.salvage.batch import VOID, Entry, fits
from cdp.salvage.crc import crc32c
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.sections import rows

MAGIC = b"CDPK"
ACTIVITY = 8
_HEADER = struct.Struct("<4sIQQ16xII4xI8x")
_ENTRY = struct.Struct("<IHIHBHBQQ")
_ACTIVITY_BYTES_MAX = 1 << 20
MINUTE_ROW = "<QQQQQ"


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A valid batch of a compacted segment. `previous_lsn`: of the last entry of the batch before, 0 for the first."""

    segment: int
    offset: int
    first_lsn: int
    last_lsn: int
    previous_lsn: int
    entry_count: int
    payload_bytes: int
    clock_epoch: int

    @property
    def directory_end(self) -> int:
        """Where the directory ends and the first payload begins."""
        return self.offset + _HEADER.size + _ENTRY.size * self.entry_count

    @property
    def end(self) -> int:
        """The byte behind the last payload."""
        return self.directory_end + self.payload_bytes

    def read_entries(self, file: StoredFile) -> Iterator[Entry]:
        """The entries in the order of their LSNs."""
        start = self.offset + _HEADER.size
        return _entries(self.segment, file.read(start, self.directory_end - start), self.directory_end)


def packed_batch_at(
    segment: int, nonce: bytes, clock_epoch: int, file: StoredFile, offset: int, end: int
) -> PackedBatch | None:
    """The batch at `offset`, None unless magic, checksum and shape are right."""
    header = file.read(offset, _HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        return None
    _, crc, first, previous, said, count, payload = _HEADER.unpack(header)
    directory_end = offset + _HEADER.size + _ENTRY.size * count
    if said != offset or not count or directory_end + payload > end:
        return None
    directory = file.read(offset + _HEADER.size, _ENTRY.size * count)
    if crc != crc32c(memoryview(header)[8:], directory, nonce):
        return None
    entries = list(_entries(segment, directory, 0))
    last = entries[-1].lsn
    fine = all(_fits(entry) for entry in entries) and sum(entry.stored for entry in entries) == payload
    ascending = all(one.lsn <= other.lsn for one, other in pairwise(entries))
    if not (fine and ascending and entries[0].lsn == first and previous <= first):
        return None
    return PackedBatch(segment, offset, first, last, previous, count, payload, clock_epoch)


def scan_compacted(
    segment: int, nonce: bytes, clock_epoch: int, file: StoredFile, end: int
) -> tuple[list[PackedBatch], list[str]]:
    """The batches before `end`, where the footer begins, and a sentence for each place that is not what it must be."""
    batches: list[PackedBatch] = []
    troubles = []
    lost_from = 0
    position = PAGE
    while position < end:
        batch = packed_batch_at(segment, nonce, clock_epoch, file, position, end)
        if batch is None:
            lost_from = lost_from or position
            position += PAGE
            continue
        if lost_from:
            troubles.append(f"no valid batch at {lost_from}; the next one is at {position}")
            lost_from = 0
        batches.append(batch)
        position = -(-batch.end // PAGE) * PAGE
        if any(file.read(batch.end, position - batch.end)):
            troubles.append(f"bytes {batch.end}..{position}: not zero")
    if lost_from or not batches:
        troubles.append(f"no valid batch at {lost_from or PAGE}; the footer begins at {end}")
    return batches, troubles


def activity_rows(body: bytes) -> list[tuple[int, ...]]:
    """The rows of STAT that an activity entry holds. Raises ValueError."""
    return rows(body, MINUTE_ROW)


def _entries(segment: int, directory: bytes, offset: int) -> Iterator[Entry]:
    for low, high, count_low, count_high, kind, stored_low, stored_high, lsn, stamp in _ENTRY.iter_unpack(directory):
        stored = stored_low | stored_high << 16
        yield Entry(lsn, stamp, kind, low | high << 32, count_low | count_high << 32, offset, stored, segment)
        offset += stored


def _fits(entry: Entry) -> bool:
    if entry.kind == ACTIVITY:
        rows_bytes = entry.stored - 4
        shape = (
            rows_bytes >= 0 and rows_bytes % struct.calcsize(MINUTE_ROW) == 0 and entry.stored <= _ACTIVITY_BYTES_MAX
        )
        return shape and not (entry.start or entry.sectors)
    return entry.kind != VOID and fits(entry.kind, entry.start, entry.sectors, entry.stored)
