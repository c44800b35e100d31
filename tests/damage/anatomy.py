"""What each byte of a segment file is, read from the file by the page docs/format.md alone, for a segment that is whole.

Parts cover the file from its first byte to its last, in order, without gaps: a test that damages every kind of part has
damaged every kind of byte.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PAGE = 4096
SECTOR = 512
DATA, CONTROL = 1, 5
_TRAILER_BYTES = 96


class Entry(NamedTuple):
    """A directory entry; `start` and `sectors` in sectors."""

    lsn: int
    kind: int
    start: int
    sectors: int

    @property
    def covers(self) -> range:
        return range(self.start, self.start + self.sectors)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `start..end` of a file, and what they are; `entry` for payloads."""

    start: int
    end: int
    what: str
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment's parts, ascending, and its entries in the order of their LSNs."""

    name: str
    parts: tuple[Part, ...]
    entries: tuple[Entry, ...]

    def payloads(self, start: int, end: int) -> list[Part]:
        """Those that have a byte in `start..end`."""
        return [part for part in self.parts if part.entry and part.start < end and start < part.end]


def dissect(path: Path) -> Segment:
    """AssertionError where the file is not as the page says."""
    raw = path.read_bytes()
    (footer,) = struct.unpack_from("<Q", raw, len(raw) - _TRAILER_BYTES + 16)
    found = [*_with_padding(list(_batches(raw, footer)), footer), *_footer(raw, footer)]
    parts = (Part(0, PAGE, "file header"), *found)
    for one, other in itertools.pairwise(parts):
        assert one.start < one.end == other.start, (path.name, one, other)
    assert parts[-1].end == len(raw)
    return Segment(path.name, parts, tuple(_entries(raw, footer)))


def dissect_open(path: Path) -> tuple[tuple[Part, ...], int]:
    """The parts of a segment that a killed writer left open, to the end of its last batch, and the largest durable LSN of its headers but the last."""
    raw = path.read_bytes()
    parts = list(_batches(raw, len(raw)))
    durable = [fields[4] for _, fields in _headers(raw, len(raw))]
    return (Part(0, PAGE, "file header"), *_with_padding(parts, parts[-1].end)), max(durable[:-1])


def _headers(raw: bytes, footer: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    at = PAGE
    while at < footer:
        magic, *fields = struct.unpack_from("<4sIQQQQIIIIII", raw, at)
        if magic == b"CDPB" and fields[5] == at:
            yield at, tuple(fields)
            _, _, _, _, _, _, entries, echo, payload, _, _ = fields
            at += 64 + 20 * entries + echo + payload
        at = (at // 64 + 1) * 64 if at % 64 or magic != b"CDPB" else at


def _directory(raw: bytes, at: int, fields: tuple[int, ...]) -> Iterator[tuple[Entry, int]]:
    """(entry, stored bytes)."""
    lsn = fields[1] - 1
    for i in range(fields[6]):
        row = raw[at + 64 + 20 * i : at + 84 + 20 * i]
        lsn += not row[12] & 0x80
        start, sectors = int.from_bytes(row[:6], "little"), int.from_bytes(row[6:12], "little")
        yield Entry(lsn, row[12] & 15, start, sectors), int.from_bytes(row[13:16], "little")


def _entries(raw: bytes, footer: int) -> Iterator[Entry]:
    for at, fields in _headers(raw, footer):
        for entry, _ in _directory(raw, at, fields):
            yield entry


def _batches(raw: bytes, footer: int) -> Iterator[Part]:
    for at, fields in _headers(raw, footer):
        entries, echo = fields[6], fields[7]
        yield Part(at, at + 64, "batch header")
        directory_end = at + 64 + 20 * entries
        if entries:
            yield Part(at + 64, directory_end, "directory")
        position = directory_end + echo
        if echo:
            yield Part(directory_end, position, "echo")
        for entry, stored in _directory(raw, at, fields):
            if stored:
                what = "control" if entry.kind == CONTROL else "payload"
                yield Part(position, position + 4, f"{what} checksum", entry)
                yield Part(position + 4, position + stored, what, entry)
                position += stored


def _with_padding(parts: list[Part], footer: int) -> Iterator[Part]:
    at = PAGE
    for part in parts:
        if at < part.start:
            yield Part(at, part.start, "between batches")
        yield part
        at = part.end
    if at < footer:
        yield Part(at, footer, "before the footer")


def _footer(raw: bytes, footer: int) -> Iterator[Part]:
    trailer = len(raw) - _TRAILER_BYTES
    _, narrow, wide, at, count = struct.unpack_from("<QIIQI", raw, trailer + 16)
    for block in range(narrow + wide):
        start = footer + PAGE * block
        (used,) = struct.unpack_from("<H", raw, start + 6)
        yield Part(start, start + 24, "block header")
        yield Part(start + 24, start + used, "run entries")
        if used < PAGE:
            yield Part(start + used, start + PAGE, "behind run entries")
    for _ in range(count):
        tag, _, length = struct.unpack_from("<4sIQ", raw, at)
        yield Part(at, at + 16, "section header")
        if length:
            yield Part(at + 16, at + 16 + length, f"section {tag.decode()}")
        end = at + 16 + length
        at = (end + 7) // 8 * 8
        if end < at:
            yield Part(end, at, "between sections")
    if at < trailer:
        yield Part(at, trailer, "before the trailer")
    yield Part(trailer, len(raw), "trailer")
