"""A batch header counts only with the shape that the format demands, even where its checksum fits."""

from __future__ import annotations

import struct

import pytest

from cdp.salvage.batch import CONTROL, DATA, TRIM, VOID, Batch, decode_batch
from tests.format.writer_segment import crc, u64

NONCE = u64(7)
MORE = 0x80


def _entry(bits: int, start: int = 0, sectors: int = 0, stored: int = 0) -> bytes:
    place = start.to_bytes(6, "little") + sectors.to_bytes(6, "little")
    return place + bytes([bits]) + stored.to_bytes(3, "little") + bytes(4)


def _decoded(*entries: bytes, payload: int, first: int = 5, previous: int = 4) -> Batch | None:
    directory = b"".join(entries)
    fixed = struct.pack("<QQQQIIIIII", first, previous, 0, 0, 4096, len(entries), 0, payload, 0, 0)
    header = b"CDPB" + struct.pack("<I", crc(fixed, directory, NONCE)) + fixed
    return decode_batch(1, NONCE, header, directory)


def test_a_record_of_several_entries_is_one_lsn() -> None:
    batch = _decoded(
        _entry(DATA, 1, 128, 4 + 128 * 512), _entry(TRIM | MORE, 200, 2**47), _entry(CONTROL, stored=9), payload=65549
    )
    assert batch is not None
    assert (batch.record_count, batch.last_lsn, batch.entry_count) == (2, 6, 3)


@pytest.mark.parametrize(
    ("entry", "payload"),
    [
        (_entry(DATA, 0, 0, 5), 5),
        (_entry(DATA, 0, 129, 5), 5),
        (_entry(DATA, 0, 1 + (1 << 32), 5), 5),
        (_entry(DATA, 0, 1, 4), 4),
        (_entry(DATA, 0, 1, 517), 517),
        (_entry(TRIM, 0, 1, 1), 1),
        (_entry(VOID, 1, 0), 0),
        (_entry(VOID, 0, 1), 0),
        (_entry(VOID, 0, 0, 1), 1),
        (_entry(CONTROL, 1, 0, 9), 9),
        (_entry(CONTROL, 0, 1, 9), 9),
        (_entry(CONTROL, 0, 0, 3), 3),
        (_entry(CONTROL, 0, 0, 5 + (1 << 20)), 5 + (1 << 20)),
        (_entry(0, 0, 1), 0),
        (_entry(7, 0, 1), 0),
        (_entry(TRIM | 0x10, 0, 1), 0),
        (_entry(TRIM | MORE, 0, 1), 0),
        (_entry(DATA, 0, 1, 5), 6),
    ],
)
def test_an_impossible_directory_is_none(entry: bytes, payload: int) -> None:
    assert _decoded(entry, payload=payload) is None


def test_a_batch_follows_what_it_says_it_follows() -> None:
    assert _decoded(payload=0, first=5, previous=4) is not None
    assert _decoded(payload=0, first=5, previous=5) is None
