"""LEB128: 7 bits a byte, the low ones first."""

from __future__ import annotations


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, below 2^64, and the position behind it. Raises ValueError."""
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
