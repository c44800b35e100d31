"""Runs: entries that map sectors to places, in blocks of one page (docs/format.md, "Footer")."""

from __future__ import annotations

import struct
from typing import NamedTuple

from cdp.salvage.batch import COVERING, DATA
from cdp.salvage.crc import crc32c
from cdp.salvage.files import PAGE
from cdp.salvage.sections import Fence
from cdp.salvage.varint import varint

NARROW_SECTORS_MAX = 8192
_BLOCK = struct.Struct("<IHHQQ")
_SLICED = 0x10


class RunEntry(NamedTuple):
    """An entry of a run; `offset` and `stored` (bytes) are 0 but for data.

    `skip`: the sectors left out at the front of the record's entry; `whole`: the sectors of that entry.
    """

    start: int
    lsn: int
    kind: int
    sectors: int
    segment_index: int
    offset: int
    stored: int
    skip: int
    whole: int

    @property
    def end(self) -> int:
        """The sector behind the entry's last."""
        return self.start + self.sectors


def decode_block(block: bytes, nonce: bytes) -> list[RunEntry]:
    """The entries of a block. Raises ValueError where it is not what was written."""
    if len(block) < PAGE:
        raise ValueError("the file ends before it does")
    crc, count, used, start, base = _BLOCK.unpack_from(block)
    if crc != crc32c(memoryview(block)[4:], nonce):
        raise ValueError("the checksum is wrong")
    position = _BLOCK.size
    entries: list[RunEntry] = []
    for _ in range(count):
        entry, position = _decode_entry(block[:used], position, start, base)
        if not entries and entry.start != start:
            raise ValueError(f"its first entry starts at {entry.start}, not {start}")
        entries.append(entry)
        start = entry.start
    if position != used:
        raise ValueError(f"its entries end at {position}, it says {used}")
    return entries


def _decode_entry(block: bytes, position: int, before: int, base: int) -> tuple[RunEntry, int]:
    token, position = varint(block, position)
    delta, position = varint(block, position)
    sectors, position = varint(block, position)
    lsn, position = varint(block, position)
    segment, position = varint(block, position)
    kind = token & 0x0F
    if kind not in COVERING or token & ~0x1F:
        raise ValueError(f"an entry has the impossible token {token:#x}")
    offset = stored = skip = 0
    whole = sectors
    if kind == DATA:
        offset, position = varint(block, position)
        stored, position = varint(block, position)
        if token & _SLICED:
            skip, position = varint(block, position)
            whole, position = varint(block, position)
    return RunEntry(before + delta, base + lsn, kind, sectors, segment, offset, stored, skip, whole), position


def fence_of(block: list[RunEntry]) -> Fence:
    """The fence that a block must have."""
    return Fence(
        min(entry.start for entry in block),
        max(entry.end for entry in block),
        block[0].lsn,
    )
