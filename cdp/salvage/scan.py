"""Finds the batches of a segment (docs/format.md, "Batches", "Recovery of open segments").

Only what passes its checksum under the segment's own nonce is believed, so that what an earlier use of the file left
behind cannot pass. An echo stands in for an original that is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cdp.salvage.batch import HEADER_BYTES, MAGIC, Batch, decode_batch, directory_bytes
from cdp.salvage.compacted import scan_compacted
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.segment import Segment, Trouble

_GRAIN = 64
_SEARCH_BYTES = 1 << 20
_NOT_DURABLE = 1 << 64


def scan(segment: Segment) -> None:
    """Fills in the segment's batches (`packed` of a compacted one), echoes and troubles."""
    if segment.file is None:
        return
    if segment.item.compacted:
        _scan_compacted(segment, segment.file)
        return
    originals: dict[int, Batch] = {}
    position = PAGE
    while (batch := _next_batch(segment, position)) is not None:
        originals[batch.offset] = batch
        position = -(-batch.end // _GRAIN) * _GRAIN
    stand_ins = _read_echoes(segment, segment.file, originals)
    segment.batches = sorted([*originals.values(), *stand_ins.values()], key=lambda batch: batch.offset)
    _check_gaps(segment, segment.file)


def _scan_compacted(segment: Segment, file: StoredFile) -> None:
    item = segment.item
    segment.packed, texts = scan_compacted(item.id, segment.nonce, item.clock_epoch, file, segment.batches_end)
    segment.troubles += [Trouble(text, item.first_lsn, item.first_lsn) for text in texts]


def _next_batch(segment: Segment, position: int) -> Batch | None:
    end = segment.batches_end
    if (batch := _batch_at(segment, position, end)) is not None:
        return batch
    while position < end:
        window = segment.read(position, min(_SEARCH_BYTES, end - position))
        at = window.find(MAGIC)
        while at >= 0:
            if at % _GRAIN == 0 and (batch := _batch_at(segment, position + at, end)) is not None:
                return batch
            at = window.find(MAGIC, at + 1)
        position += _SEARCH_BYTES
    return None


def _batch_at(segment: Segment, offset: int, end: int) -> Batch | None:
    header = segment.read(offset, HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        return None
    length = directory_bytes(header)
    if offset + HEADER_BYTES + length > end:
        return None
    directory = segment.read(offset + HEADER_BYTES, length)
    batch = decode_batch(segment.item.id, segment.nonce, header, directory)
    return batch if batch is not None and batch.offset == offset else None


def _read_echoes(segment: Segment, file: StoredFile, originals: dict[int, Batch]) -> dict[int, Batch]:
    stand_ins: dict[int, Batch] = {}
    holders = list(originals.values())
    for holder in holders:  # grows: what the echo of a batch holds may be intact although its own header is not
        where = f"echo in the batch at {holder.offset}"
        for copy in _echoed(segment, holder, file.read(holder.directory_end, holder.echo_bytes)):
            original = originals.get(copy.offset)
            if original is None and copy.offset not in stand_ins:
                stand_ins[copy.offset] = copy
                holders.append(copy)
                segment.troubles.append(_trouble(copy, f"batch at {copy.offset} is lost; its {where} stands in"))
            elif original is not None and original != replace(copy, directory=None):
                segment.troubles.append(_trouble(copy, f"batch at {copy.offset} differs from its {where}"))
            segment.echoes.append((original or copy, holder))
    return stand_ins


def _echoed(segment: Segment, holder: Batch, echo: bytes) -> Iterator[Batch]:
    position = valid_end = 0
    while position < holder.echo_bytes:
        batch = _echo_at(segment, echo, position)
        if batch is None:
            position = echo.find(MAGIC, position + 1)
            position = holder.echo_bytes if position < 0 else position
            continue
        if valid_end < position:
            segment.troubles.append(_bad_echo(holder, valid_end))
        yield batch
        position += batch.directory_end - batch.offset
        valid_end = position
    if valid_end < holder.echo_bytes:
        segment.troubles.append(_bad_echo(holder, valid_end))


def _echo_at(segment: Segment, echo: bytes, position: int) -> Batch | None:
    header = echo[position : position + HEADER_BYTES]
    if len(header) < HEADER_BYTES:
        return None
    start = position + HEADER_BYTES
    directory = echo[start : start + directory_bytes(header)]
    return decode_batch(segment.item.id, segment.nonce, header, directory, keep=True)


def _bad_echo(holder: Batch, position: int) -> Trouble:
    offset = holder.directory_end + position
    return _trouble(holder, f"echo at {offset}, in the batch at {holder.offset}: no valid copy of a batch")


def _trouble(batch: Batch, text: str) -> Trouble:
    return Trouble(text, batch.first_lsn if batch.entry_count else batch.previous_lsn, batch.first_lsn)


def _check_gaps(segment: Segment, file: StoredFile) -> None:
    """The bytes between batches are zero; others are a batch that is lost, or rot."""
    position = PAGE
    for batch in segment.batches:
        if any(any(file.read(at, min(PAGE, batch.offset - at))) for at in range(position, batch.offset, PAGE)):
            text = f"bytes {position}..{batch.offset}: neither a batch nor zero"
            segment.troubles.append(Trouble(text, batch.previous_lsn, _NOT_DURABLE))
        position = max(position, batch.end)
