"""Runs, sections and trailers: the index part of footers and checkpoints (docs/format.md, "Footer", "Checkpoints").

Each part has a checksum of its own. A part that fails it is reported and reads as absent; nothing here is needed to
read a volume, because all of it can be rebuilt from the batches.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from cdp.salvage.batch import CONTROL, DATA, KIND_NAMES, VOID
from cdp.salvage.crc import crc32c
from cdp.salvage.files import PAGE, StoredFile

TRAILER_BYTES = 96
SECTION_ALIGNMENT = 8
NARROW_SECTORS_MAX = 8192
_BLOCK = struct.Struct("<IHHQQ")
_SECTION = struct.Struct("<4sIQ")
_TRAILER = struct.Struct("<8sIIQIIQIIQQQQI12x")
_SLICED = 0x10

Complain = Callable[[str], None]


class RunError(Exception):
    """A part of an index is not what was written; the text says in which way."""


class RunEntry(NamedTuple):
    """An entry of a run; `offset` and `stored` are 0 but for data; `skip` and `whole` are sectors."""

    start: int
    lsn: int
    kind: int
    sectors: int
    segment_index: int
    offset: int
    stored: int
    skip: int
    whole: int


class Fence(NamedTuple):
    """What a block holds: the smallest start and largest end in sectors, and its first LSN."""

    start: int
    end: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Trailer:
    """The last 96 bytes of a footer or checkpoint. Offsets in bytes, stamps in ns."""

    index_offset: int
    narrow_blocks: int
    wide_blocks: int
    sections_offset: int
    section_count: int
    run_entries: int
    first_lsn: int
    last_lsn: int
    first_stamp: int
    last_stamp: int
    clock_epoch: int


@dataclass(slots=True)
class Sections:
    """Sections by tag, and where the last one ends."""

    bodies: dict[bytes, bytes] = field(default_factory=dict)
    end: int = 0


def read_trailer(file: StoredFile, nonce: bytes, magic: bytes) -> Trailer:
    """The trailer of a file. Raises RunError."""
    raw = file.read(max(0, file.size - TRAILER_BYTES), TRAILER_BYTES)
    if len(raw) < TRAILER_BYTES:
        raise RunError("the file is too short for a trailer")
    found, version, crc, *fields = _TRAILER.unpack(raw)
    if found != magic:
        raise RunError("trailer: the magic is wrong")
    if crc != crc32c(raw[16:], nonce):
        raise RunError("trailer: the checksum is wrong")
    if version != 1:
        raise RunError(f"trailer: format version {version}; this reader knows 1")
    return Trailer(*fields)


def read_block(file: StoredFile, nonce: bytes, offset: int) -> list[RunEntry]:
    """The entries of the block at `offset`. Raises RunError."""
    block = file.read(offset, PAGE)
    if len(block) < PAGE:
        raise RunError(f"block at {offset}: the file ends before it does")
    crc, count, used, start, base = _BLOCK.unpack_from(block)
    if crc != crc32c(memoryview(block)[4:], nonce):
        raise RunError(f"block at {offset}: the checksum is wrong")
    try:
        return _decode_entries(block[: min(used, PAGE)], count, start, base)
    except ValueError as error:
        raise RunError(f"block at {offset}: {error}") from None


def _decode_entries(block: bytes, count: int, start: int, base: int) -> list[RunEntry]:
    position = _BLOCK.size
    entries = []
    for number in range(count):
        token, position = _varint(block, position)
        delta, position = _varint(block, position)
        sectors, position = _varint(block, position)
        lsn, position = _varint(block, position)
        segment, position = _varint(block, position)
        kind = token & 0x0F
        if kind not in KIND_NAMES or kind in (VOID, CONTROL) or token & ~0x1F or (number == 0 and delta):
            raise ValueError(f"entry {number} breaks the rules of a run (token {token:#x}, delta {delta})")
        offset = stored = skip = 0
        whole = sectors
        if kind == DATA:
            offset, position = _varint(block, position)
            stored, position = _varint(block, position)
            if token & _SLICED:
                skip, position = _varint(block, position)
                whole, position = _varint(block, position)
        start += delta
        entries.append(RunEntry(start, base + lsn, kind, sectors, segment, offset, stored, skip, whole))
    if position != len(block):
        raise ValueError(f"entries end at {position}, the block says {len(block)}")
    return entries


def read_sections(file: StoredFile, nonce: bytes, offset: int, count: int, end: int, complain: Complain) -> Sections:
    """`count` sections from `offset` on, within `end`; those that fail their checksum are told to `complain`."""
    sections = Sections(end=offset)
    for number in range(count):
        head = file.read(offset, _SECTION.size)
        if offset % SECTION_ALIGNMENT or offset + _SECTION.size > end or len(head) < _SECTION.size:
            complain(f"section {number} at {offset}: out of place")
            return sections
        tag, crc, size = _SECTION.unpack(head)
        if offset + _SECTION.size + size > end:
            complain(f"section {number} at {offset}: {size} bytes do not fit")
            return sections
        body = file.read(offset + _SECTION.size, size)
        if crc != crc32c(body, nonce):
            complain(f"section {_show(tag)} at {offset}: the checksum is wrong")
        elif tag in sections.bodies:
            complain(f"section {_show(tag)} at {offset}: a second one of its kind")
        else:
            sections.bodies[tag] = body
        sections.end = offset + _SECTION.size + size
        padded = -(-sections.end // SECTION_ALIGNMENT) * SECTION_ALIGNMENT
        if number + 1 < count and any(file.read(sections.end, padded - sections.end)):
            complain(f"padding at {sections.end}: not zero")
        offset = padded
    return sections


def words(body: bytes) -> list[int]:
    """A body of u64. Raises RunError."""
    if len(body) % 8:
        raise RunError(f"{len(body)} bytes are no list of u64")
    return [value for (value,) in struct.iter_unpack("<Q", body)]


def rows(body: bytes, layout: str) -> list[tuple[int, ...]]:
    """A body of fixed rows. Raises RunError."""
    size = struct.calcsize(layout)
    if len(body) % size:
        raise RunError(f"{len(body)} bytes are no rows of {size}")
    return list(struct.iter_unpack(layout, body))


def fences(body: bytes) -> list[Fence]:
    """The body of FENC. Raises RunError."""
    return [Fence(*row) for row in rows(body, "<QQQ")]


def controls(body: bytes) -> list[tuple[int, int, bytes]]:
    """The body of CTRL: LSN, stamp, JSON bytes. Raises RunError."""
    found = []
    position = 0
    while position < len(body):
        if position + 20 > len(body):
            raise RunError("a control record is cut off")
        lsn, stamp, size = struct.unpack_from("<QQI", body, position)
        text = body[position + 20 : position + 20 + size]
        if len(text) != size:
            raise RunError("a control record is cut off")
        found.append((lsn, stamp, text))
        position += 20 + size
    return found


def ascending(body: bytes) -> list[int]:
    """The body of FLSH: ascending numbers, the first as it is and then differences. Raises RunError."""
    position = value = 0
    found = []
    while position < len(body):
        try:
            delta, position = _varint(body, position)
        except ValueError as error:
            raise RunError(str(error)) from None
        value += delta
        found.append(value)
    return found


def fence_of(block: list[RunEntry]) -> Fence:
    """The fence that a block must have."""
    return Fence(
        min(entry.start for entry in block),
        max(entry.start + entry.sectors for entry in block),
        min(entry.lsn for entry in block),
    )


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("a varint is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise ValueError("a varint is larger than 64 bits")
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint is longer than 10 bytes")


def _show(tag: bytes) -> str:
    return tag.decode("ascii", "backslashreplace")
