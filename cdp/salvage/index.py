"""The index part of a file: the runs, sections and trailer of a footer or checkpoint, each with a checksum of its own.

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
_TRAILER = struct.Struct("<8sIIQIIQIIQQQQI12x")

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


@dataclass(slots=True)
class Sections:
    """Sections by tag, and where the last one ends."""

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
        """The trailer, None where it is damaged."""
        raw = self.file.read(max(0, self.end), TRAILER_BYTES)
        problem = ""
        if len(raw) < TRAILER_BYTES:
            self.complain("trailer: the file is too short for one")
            return None
        found, version, crc, *fields = _TRAILER.unpack(raw)
        if found != magic:
            problem = "the magic is wrong"
        elif crc != crc32c(raw[16:], self.nonce):
            problem = "the checksum is wrong"
        elif version != 1:
            problem = f"format version {version}; this reader knows 1"
        if problem:
            self.complain(f"trailer: {problem}")
        return None if problem else Trailer(*fields)

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

    def sections(self, offset: int, count: int) -> Sections:
        """`count` sections from `offset` on."""
        found = Sections(end=offset)
        for number in range(count):
            head = self.file.read(offset, _SECTION.size)
            tag, crc, size = _SECTION.unpack(head.ljust(_SECTION.size, b"\0"))
            if offset % sections.ALIGNMENT or offset + _SECTION.size + size > self.end:
                self.complain(f"section {number} at {offset}: out of place")
                break
            self._take_section(found, tag, crc, offset + _SECTION.size, size)
            offset = -(-found.end // sections.ALIGNMENT) * sections.ALIGNMENT
            if number + 1 < count:
                self.zeros(found.end, offset)
        return found

    def _take_section(self, found: Sections, tag: bytes, crc: int, start: int, size: int) -> None:
        body = self.file.read(start, size)
        found.end = start + size
        name = tag.decode("ascii", "backslashreplace")
        if crc != crc32c(body, self.nonce):
            self.complain(f"section {name} at {start}: the checksum is wrong")
        elif tag not in sections.TAGS:
            self.complain(f"section {name} at {start}: of no known kind")
        elif tag in found.bodies:
            self.complain(f"section {name} at {start}: a second one of its kind")
        else:
            found.bodies[tag] = body

    def zeros(self, start: int, end: int) -> None:
        """Padding must be zero."""
        if any(self.file.read(start, end - start)):
            self.complain(f"padding at {start}..{end}: not zero")

    def fences(self, body: bytes | None, blocks: list[Block]) -> None:
        """Compares FENC with the blocks that could be read."""
        if body is None:
            if blocks:
                self.complain("there is no section FENC")
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
