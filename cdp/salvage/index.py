"""The index part of a file: the blocks, sections and trailer of a footer, run or checkpoint, each with a checksum of its own.

A part that fails its checksum is told and reads as absent. Nothing here is needed to read a volume, because all of it
can be had from the batches.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from cdp.salvage import sections
from cdp.salvage.crc import crc32c
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.report import Report
from cdp.salvage.run import RunEntry, decode_block, fence_of

TRAILER_BYTES = 96
_SECTION = struct.Struct("<4sIQ")
_TRAILER = struct.Struct("<16xQIIQIIQQQQIQI")
_RUN_TRAILER = struct.Struct("<16xQQQQQQQ24x")

Block = list[RunEntry] | None  # None: damaged


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
    tail_offset: int
    tail_crc: int


@dataclass(frozen=True, slots=True)
class RunTrailer:
    """The last 96 bytes of a run. Offsets in bytes."""

    narrow_blocks: int
    wide_blocks: int
    fences_offset: int
    tables_offset: int
    entries: int
    first_lsn: int
    last_lsn: int


@dataclass(slots=True)
class Sections:
    """Sections by tag, those of one tag put together, and where the last one ends."""

    bodies: dict[bytes, bytes] = field(default_factory=dict)
    end: int = 0


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A file with an index; what is wrong with it goes to `report`, each time with `prefix` in front."""

    file: StoredFile
    nonce: bytes
    report: Report
    segment: int | None = None
    prefix: str = ""

    @property
    def end(self) -> int:
        """Where the trailer begins."""
        return self.file.size - TRAILER_BYTES

    def complain(self, text: str) -> None:
        """Reports damage."""
        self.report.damage(self.file.name, self.prefix + text, segment=self.segment)

    def trailer(self, magic: bytes) -> Trailer | None:
        """The trailer of a footer or checkpoint, None where it is damaged."""
        raw = self._trailer_bytes(magic)
        return Trailer(*_TRAILER.unpack(raw)) if raw else None

    def run_trailer(self, magic: bytes) -> RunTrailer | None:
        """The trailer of a run, None where it is damaged."""
        raw = self._trailer_bytes(magic)
        return RunTrailer(*_RUN_TRAILER.unpack(raw)) if raw else None

    def _trailer_bytes(self, magic: bytes) -> bytes | None:
        raw = self.file.read(max(0, self.end), TRAILER_BYTES)
        problem = ""
        if len(raw) < TRAILER_BYTES:
            self.complain("trailer: the file is too short for one")
            return None
        found, version, crc = struct.unpack_from("<8sII", raw)
        if crc != crc32c(raw[:12], raw[16:], self.nonce):
            problem = "the checksum is wrong"
        elif found != magic:
            problem = "the magic is wrong"
        elif version != 1:
            problem = f"format version {version}; this reader knows 1"
        if problem:
            self.complain(f"trailer: {problem}")
        return None if problem else raw

    def blocks(self, offset: int, count: int) -> list[Block]:
        """`count` blocks from `offset` on; fewer where the file ends."""
        blocks: list[Block] = []
        if offset % PAGE:
            self.complain(f"the run at {offset} does not begin on a page")
        for at in range(offset, offset + count * PAGE, PAGE):
            if at >= self.file.size:
                self.complain(f"block at {at}: the file ends before it")
                break
            try:
                blocks.append(decode_block(self.file.read(at, PAGE), self.nonce))
            except ValueError as error:
                self.complain(f"block at {at}: {error}")
                blocks.append(None)
        return blocks

    def sections(self, offset: int, tags: tuple[bytes, ...]) -> Sections:
        """The sections from `offset` on, which must be these, in this order."""
        found = Sections(end=offset)
        for tag in tags:
            head = self.file.read(offset, _SECTION.size)
            stored_tag, crc, size = _SECTION.unpack(head.ljust(_SECTION.size, b"\0"))
            start = offset + _SECTION.size
            if offset % sections.ALIGNMENT or start + size > self.end:
                self.complain(f"section {tag.decode()} at {offset}: out of place")
                break
            self.zeros(found.end, offset)
            body = self.file.read(start, size)
            if crc != crc32c(stored_tag, head[8:], body, self.nonce):
                self.complain(f"section {tag.decode()} at {offset}: the checksum is wrong")
            elif stored_tag != tag:
                self.complain(f"section {tag.decode()} at {offset}: another one is here")
            else:
                found.bodies[tag] = found.bodies.get(tag, b"") + body
            found.end = start + size
            offset = -(-found.end // sections.ALIGNMENT) * sections.ALIGNMENT
        return found

    def zeros(self, start: int, end: int) -> None:
        """Padding must be zero."""
        if any(self.file.read(start, end - start)):
            self.complain(f"padding at {start}..{end}: not zero")

    def fences(self, body: bytes | None, blocks: list[Block]) -> None:
        """Compares FENC with the blocks that could be read."""
        if body is None:
            return
        try:
            fences = sections.fences(body)
        except ValueError as error:
            self.complain(f"FENC: {error}")
            return
        if len(fences) != len(blocks):
            self.complain(f"FENC: {len(fences)} fences for {len(blocks)} blocks")
        for number, (fence, block) in enumerate(zip(fences, blocks, strict=False)):
            if block and fence != fence_of(block):
                self.complain(f"FENC: fence {number} is {tuple(fence)}, its block holds {tuple(fence_of(block))}")
