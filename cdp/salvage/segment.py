"""One segment file: its header, and the batches that it still shows (docs/format.md, "Segments", "Batches").

Batches stand in the order of their offsets, which is the order of their LSNs. An echo stands in for an original that is
lost. Only what passes its checksum under the segment's own nonce is believed, so that what an earlier use of the
file left behind cannot pass.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cdp.salvage.batch import HEADER_BYTES, MAGIC, Batch, Entry, decode_batch, directory_bytes, entries_of, record_count
from cdp.salvage.crc import crc32c
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.manifest import FORMAT, SegmentItem
from cdp.salvage.report import Report

_FILE_HEADER = struct.Struct("<8sII16sI4xQQQ")
_GRAIN = 64
_SEARCH_BYTES = 1 << 20
_NOT_DURABLE = 1 << 64


@dataclass(frozen=True, slots=True)
class FileHeader:
    """Page 0 of a segment or checkpoint. `created` is a stamp."""

    volume: str
    number: int
    nonce: int
    epoch: int
    created: int
    problem: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with a batch, to be judged when the last durable LSN is known.

    It is damage at or below the last LSN of a sealed segment (`lsn`), at or below the durable LSN of an open one
    (`open_lsn`); above, it is what a crash leaves.
    """

    text: str
    lsn: int
    open_lsn: int


@dataclass(slots=True)
class Segment:
    """A segment of the journal, open for reading. `file` is None where it is missing or foreign.

    `batches` stand in the order of their offsets; `echoes` pairs each echoed batch with the one that holds its echo.
    """

    item: SegmentItem
    file: StoredFile | None
    batches: list[Batch] = field(default_factory=list)
    echoes: list[tuple[Batch, Batch]] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.item.file_name

    @property
    def nonce(self) -> bytes:
        """The nonce as it enters checksums."""
        return self.item.nonce.to_bytes(8, "little")

    @property
    def batches_end(self) -> int:
        """Where batches end at the latest: at the footer of a sealed segment, else at the end of the file."""
        size = self.file.size if self.file else 0
        return min(self.item.footer_offset, size) if self.item.sealed else size

    def directory(self, batch: Batch) -> bytes:
        """The directory of one of this segment's batches."""
        if batch.directory is not None or self.file is None:
            return batch.directory or b""
        start = batch.offset + HEADER_BYTES
        return self.file.read(start, batch.directory_end - start)

    def entries(self, batch: Batch) -> Iterator[Entry]:
        """The entries of one of this segment's batches."""
        return entries_of(batch, self.directory(batch))

    def last_lsn(self, batch: Batch) -> int:
        """The LSN of a batch's last record; of the record before it where the batch is empty."""
        return batch.first_lsn + record_count(self.directory(batch)) - 1


def read_file_header(page: bytes, magic: bytes) -> FileHeader | None:
    """A header of a segment or checkpoint; `problem` says what is wrong with it. None where it is shorter than that."""
    if len(page) < PAGE:
        return None
    found, version, crc, volume, number, nonce, epoch, created = _FILE_HEADER.unpack_from(page)
    problem = ""
    if found != magic:
        problem = "the magic is wrong"
    elif crc != crc32c(memoryview(page)[16:PAGE]):
        problem = "the header's checksum is wrong"
    elif version != FORMAT:
        problem = f"format version {version}; this reader knows {FORMAT}"
    return FileHeader(volume.hex(), number, nonce, epoch, created, problem)


def check_file_header(file: StoredFile, magic: bytes, volume: str, number: int, nonce: int, report: Report) -> bool:
    """Whether the file is the one that the manifest means; a damaged header alone does not make it another one."""
    segment = number if magic == b"CDPSEG01" else None
    header = read_file_header(file.read(0, PAGE), magic)
    if header is None:
        report.damage(file.name, f"only {file.size} bytes: no header", segment=segment)
        return True
    if header.problem:
        report.damage(file.name, f"header: {header.problem}", segment=segment)
        return True
    if (header.volume, header.number, header.nonce) == (volume, number, nonce):
        return True
    report.damage(file.name, f"a foreign file: number {header.number} of volume {header.volume}", segment=segment)
    return False


def scan(segment: Segment) -> None:
    """Finds the segment's batches and lets echoes stand in for lost ones."""
    if segment.file is None:
        return
    originals: dict[int, Batch] = {}
    position = PAGE
    while (batch := _next_batch(segment, segment.file, position)) is not None:
        if batch.offset not in (position, _round_up(position, PAGE)):
            text = f"no valid batch header at {position}; the next one stands at {batch.offset}"
            segment.troubles.append(Trouble(text, batch.previous_lsn, _NOT_DURABLE))
        originals[batch.offset] = batch
        position = _round_up(batch.end, _GRAIN)
    _read_echoes(segment, segment.file, originals)


def _next_batch(segment: Segment, file: StoredFile, position: int) -> Batch | None:
    end = segment.batches_end
    for offset in (position, _round_up(position, PAGE)):
        if (batch := _batch_at(segment, file, offset, end)) is not None:
            return batch
    while position < end:
        window = file.read(position, min(_SEARCH_BYTES, end - position))
        at = window.find(MAGIC)
        while at >= 0:
            if at % _GRAIN == 0 and (batch := _batch_at(segment, file, position + at, end)) is not None:
                return batch
            at = window.find(MAGIC, at + 1)
        position += _SEARCH_BYTES
    return None


def _batch_at(segment: Segment, file: StoredFile, offset: int, end: int) -> Batch | None:
    header = file.read(offset, HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        return None
    length = directory_bytes(header)
    if offset + HEADER_BYTES + length > end:
        return None
    directory = file.read(offset + HEADER_BYTES, length)
    batch = decode_batch(segment.item.id, segment.nonce, header, directory)
    return batch if batch is not None and batch.offset == offset else None


def _read_echoes(segment: Segment, file: StoredFile, originals: dict[int, Batch]) -> None:
    stand_ins: dict[int, Batch] = {}
    holders = list(originals.values())
    while holders:
        holder = holders.pop(0)
        where = f"echo in the batch at {holder.offset}"
        for copy in _echoed(segment, holder, file.read(holder.directory_end, holder.echo_bytes)):
            original = originals.get(copy.offset)
            if original is None and copy.offset not in stand_ins:
                stand_ins[copy.offset] = copy
                holders.append(copy)  # what its own echo holds may be intact
                segment.troubles.append(_trouble(copy, f"batch at {copy.offset} is lost; its {where} stands in"))
            elif original is not None and original != replace(copy, directory=None):
                segment.troubles.append(_trouble(copy, f"batch at {copy.offset} differs from its {where}"))
            segment.echoes.append((original or copy, holder))
    segment.batches = sorted([*originals.values(), *stand_ins.values()], key=lambda batch: batch.offset)


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


def _round_up(value: int, grain: int) -> int:
    return -(-value // grain) * grain
