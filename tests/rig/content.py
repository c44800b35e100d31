"""Bytes to write, the same for the same seed: half of them shrink, as the data of real disks does."""

from __future__ import annotations

import random
from pathlib import Path

DISK_BYTES = 32 << 20
"""The size of the volumes that tests with real clients make: large enough for many segments of requests, copied in a moment."""

_PIECE = 4096


def content(size: int, seed: int | str) -> bytes:
    """`size` bytes in pieces of 4096: by turns random, text-like and zero, in an order that the seed picks."""
    rng = random.Random(seed)
    pieces = bytearray()
    while len(pieces) < size:
        match rng.randrange(4):
            case 0:
                pieces += bytes(_PIECE)
            case 1:
                pieces += (b"%016x\n" % rng.getrandbits(64)) * (_PIECE // 17 + 1)
            case _:
                pieces += rng.randbytes(_PIECE)
    return bytes(pieces[:size])


def content_file(path: Path, size: int, seed: int | str) -> Path:
    path.write_bytes(content(size, seed))
    return path
