"""The bodies of sections, decoded (docs/format.md, "Footer", "Checkpoints"). Each raises ValueError for an impossible body."""

from __future__ import annotations

import struct
from typing import NamedTuple

from cdp.salvage.varint import varint

FOOTER_TAGS = (b"SEGS", b"FENC", b"CTRL", b"STMP", b"FLSH", b"STAT")
SHARD_TAGS = (b"SEGS", b"FENC")
RUN_TAGS = (b"SEGS", b"TOPF")
CHECKPOINT_TAGS = (b"SHRD", b"CTRL")
ALIGNMENT = 8
_CONTROL = struct.Struct("<QQI")


class Fence(NamedTuple):
    """What a block holds: the smallest start and largest end in sectors, and the LSN of its first entry."""

    start: int
    end: int
    lsn: int


def words(body: bytes) -> list[int]:
    """SEGS: u64 after u64."""
    return [value for (value,) in rows(body, "<Q")]


def rows(body: bytes, layout: str) -> list[tuple[int, ...]]:
    """A body of fixed rows."""
    size = struct.calcsize(layout)
    if len(body) % size:
        raise ValueError(f"{len(body)} bytes are no rows of {size}")
    return list(struct.iter_unpack(layout, body))


def fences(body: bytes) -> list[Fence]:
    """FENC."""
    return [Fence(*row) for row in rows(body, "<QQQ")]


def controls(body: bytes) -> list[tuple[int, int, bytes]]:
    """CTRL: LSN, stamp and JSON bytes of each control record."""
    found = []
    position = 0
    while position < len(body):
        if position + _CONTROL.size > len(body):
            raise ValueError("a control record is cut off")
        lsn, stamp, size = _CONTROL.unpack_from(body, position)
        position += _CONTROL.size
        text = body[position : position + size]
        if len(text) != size:
            raise ValueError("a control record is cut off")
        found.append((lsn, stamp, text))
        position += size
    return found


def ascending(body: bytes) -> list[int]:
    """FLSH: ascending numbers, the first as it is and then differences."""
    position = value = 0
    found = []
    while position < len(body):
        delta, position = varint(body, position)
        value += delta
        found.append(value)
    return found
