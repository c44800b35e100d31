"""Writes whole stores, from docs/format.md alone. Shares no code with any reader.

A `VolumeWriter` keeps its files in memory, so that a test can tear and damage them, and puts them into a folder when told.
It does what the specification's writer does, at the moments that the test chooses: it syncs, seals, stops and crashes
when the test says so.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

from tests.format.writer_compacted import CompactedWriter
from tests.format.writer_segment import (
    DAMAGED,
    DATA,
    PAGE,
    SECTOR,
    VOID,
    ZERO,
    Placed,
    Record,
    RunItem,
    SegmentWriter,
    Trailer,
    close_index,
    control_rows,
    controls_body,
    crc,
    file_header,
    round_up,
    run_blocks,
    section,
    u64,
)

EPOCH_GAP = 1 << 19
SHARD_SECTORS = 1 << 21
CREATED = 1_700_000_000 * 10**9


@dataclass
class VolumeWriter:
    """A volume in memory. `size` in bytes at creation; `created` a stamp."""

    name: str = "disk"
    id: str = "00112233445566778899aabbccddeeff"
    size: int = 1 << 20
    created: int = CREATED
    block_size: int = 512
    deleted: int | None = None
    origin: dict[str, object] | None = None
    files: dict[str, bytearray] = field(default_factory=dict)
    segments: list[SegmentWriter] = field(default_factory=list)
    compacted: list[CompactedWriter] = field(default_factory=list)
    epoch: int = 0
    clock_epoch: int = 0
    lsn_floor: int = 1
    next_lsn: int = 1
    last_lsn: int = 0
    last_stamp: int = 0
    durable_lsn: int = 0
    version: int = 1
    _manifest_generation: int = 0
    _segments: int = 0
    _checkpoints: int = 0
    _runs: int = 0

    def __post_init__(self) -> None:
        self.describe(1)
        header = struct.pack("<16sQQ16x", bytes.fromhex(self.id), self.size, self.created)
        start = b"CDPMAN01" + struct.pack("<I", self.version)
        for copy in (0, 1):
            self.files[f"manifest.{copy}"] = bytearray(start + struct.pack("<I", crc(start, header)) + header)
        self.frame(1, self._state(clean=False))
        self.start()

    def describe(self, generation: int, copies: tuple[int, ...] = (0, 1)) -> None:
        """Writes the description."""
        fields = {
            "format": 1, "generation": generation, "id": self.id, "name": self.name, "size": self.size,
            "block_size": self.block_size, "created": self.created, "deleted": self.deleted, "origin": self.origin,
        }  # fmt: skip
        line = json.dumps(fields).encode()
        for copy in copies:
            self.files[f"volume.{copy}"] = bytearray(
                line + b"\nsha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n"
            )

    def frame(self, kind: int, *items: bytes, copies: tuple[int, ...] = (0, 1)) -> None:
        """Appends a frame to the manifest's copies."""
        self._manifest_generation += 1
        body = b"".join(items)
        fixed = struct.pack("<QII8x", self._manifest_generation, len(body), kind)
        frame = b"CDPF" + struct.pack("<I", crc(fixed, body, bytes.fromhex(self.id))) + fixed + body
        for copy in copies:
            self.files[f"manifest.{copy}"] += frame

    def _state(self, *, clean: bool) -> bytes:
        ends = (self.next_lsn, self.last_stamp, self.clock_epoch) if clean else (self.lsn_floor, 0, 0)
        numbers = (self._segments + 1, self._checkpoints + 1, *ends[1:], self._runs + 1 if self.version > 1 else 0)
        return struct.pack("<BB2xIQQIIQQI44x", 5, int(clean), 0, self.epoch, ends[0], *numbers)

    @property
    def active(self) -> SegmentWriter:
        """The segment that is written."""
        return self.segments[-1]

    def start(self) -> None:
        """A new run of the writer, in a new epoch."""
        self.epoch += 1
        self.lsn_floor = self.next_lsn
        self.open_segment()

    def open_segment(self) -> None:
        """Begins a segment behind the last one."""
        self._segments += 1
        number = self._segments
        nonce = (0x1111111111111111 * number ^ self.epoch) % (1 << 64)
        segment = SegmentWriter(
            bytes.fromhex(self.id), number, nonce, self.epoch, self.created, self.last_lsn, self.clock_epoch
        )
        self.segments.append(segment)
        self.files[f"segment-{number:08x}"] = segment.data
        self.frame(2, segment_item(segment), self._state(clean=False))

    def append(self, records: list[Record], *, sync: bool = False, flush: bool = False, fresh: bool = False) -> None:
        """Appends a batch; with `sync` everything is durable afterwards, and the next batch says so."""
        self.active.append(self.next_lsn, records, self.durable_lsn, flush=flush, fresh=fresh)
        self.next_lsn += len(records)
        self.last_lsn = self.active.last_lsn
        self.last_stamp = max([self.last_stamp, *(record.stamp for record in records)])
        if sync:
            self.durable_lsn = self.last_lsn

    def idle(self) -> None:
        """The empty batch of an idle writer: everything is durable, and says so."""
        self.durable_lsn = self.last_lsn
        self.append([], fresh=True)

    def seal(self) -> None:
        """Seals the active segment, as far as it has records, and opens the next."""
        self.seal_active()
        self.open_segment()

    def seal_active(self, last_lsn: int | None = None) -> None:
        """Seals the active segment at `last_lsn`; drops it where it has no record."""
        if not self.active.entries(self.last_lsn if last_lsn is None else last_lsn):
            self.frame(2, struct.pack("<B3xI88x", 2, self.active.id))
            del self.files[f"segment-{self.active.id:08x}"]
            return
        if last_lsn is None:
            self.idle()
        self.active.seal(last_lsn)
        self.frame(2, segment_item(self.active))

    def stop(self) -> None:
        """Stops cleanly."""
        self.seal_active()
        self.frame(2, self._state(clean=True))

    def crash_and_recover(self, kept_lsn: int) -> None:
        """What the next writer does about a torn tail behind `kept_lsn`; the caller has torn the active segment."""
        self.last_lsn = kept_lsn
        self.seal_active(kept_lsn)
        self.next_lsn += EPOCH_GAP
        self.durable_lsn = kept_lsn
        self.start()

    def set_clock_back(self) -> None:
        """A new clock epoch, which begins a segment."""
        self.clock_epoch += 1
        self.seal()

    def entries(self, last_lsn: int) -> list[tuple[int, Placed]]:
        """The entries up to an LSN in the order of LSNs, each with the id of its segment."""
        segments: list[SegmentWriter | CompactedWriter] = [*self.compacted, *self.segments]
        found = [(segment.id, entry) for segment in segments for entry in segment.entries(last_lsn)]
        return sorted(found, key=lambda row: row[1].lsn)

    def exists(self, lsn: int) -> bool:
        """Whether an LSN is of this timeline."""
        return True

    def checkpoint(self, extents: list[tuple[int, int, int, int]], lsn: int) -> None:
        """Writes a checkpoint of one version: extents (start, sectors, LSN of the entry, start of the entry), in order."""
        self._checkpoints += 1
        number, nonce = self._checkpoints, 0x7777 + self._checkpoints
        content = checkpoint_file(self, number, nonce, extents, lsn)
        self.files[f"checkpoint-{number:08x}"] = bytearray(content)
        item = struct.pack("<B3xIQQIIQ56x", 3, number, nonce, lsn, 0, 0, len(content))
        self.frame(2, item, self._state(clean=False))

    def save(self, store: Path) -> Path:
        """Writes the volume's files into a store; returns the volume's folder."""
        folder = store / "volumes" / self.id
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        (folder / "lock").touch()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder


def segment_item(segment: SegmentWriter | CompactedWriter) -> bytes:
    """The manifest's item for a segment."""
    sealed = segment.sealed
    flags = int(sealed is not None) | 2 * isinstance(segment, CompactedWriter)
    fixed = struct.pack("<BB2xIQQ", 1, flags, segment.id, segment.nonce, segment.epoch)
    if sealed is None:
        return fixed.ljust(96, b"\0")
    keys = ("first_lsn", "last_lsn", "first_stamp", "last_stamp", "footer_offset", "file_bytes", "previous_lsn")
    numbers = struct.pack("<II7Q", sealed["clock_epoch"], sealed["entries"], *(sealed[key] for key in keys))
    return (fixed + numbers).ljust(96, b"\0")


def checkpoint_file(
    volume: VolumeWriter, number: int, nonce: int, extents: list[tuple[int, int, int, int]], lsn: int
) -> bytes:
    """A checkpoint's bytes; extents are cut at the borders of shards here."""
    raw_nonce = u64(nonce)
    out = file_header(b"CDPCKP01", bytes.fromhex(volume.id), number, nonce, volume.epoch, volume.created)
    rows = b""
    by_shard: dict[int, list[tuple[int, int, int, int]]] = {}
    for start, sectors, of_lsn, entry_start in extents:
        at = start
        while at < start + sectors:
            here = min(start + sectors - at, SHARD_SECTORS - at % SHARD_SECTORS)
            by_shard.setdefault(at // SHARD_SECTORS, []).append((at, here, of_lsn, entry_start))
            at += here
    for shard, pieces in sorted(by_shard.items()):
        out = out.ljust(round_up(len(out), PAGE), b"\0")
        items, table = _shard_items(volume, pieces)
        blocks, narrow = run_blocks(items, raw_nonce)
        blocks_offset = len(out)
        out += b"".join(block for block, _ in blocks)
        sections_offset = len(out)
        out = section(out, b"SEGS", b"".join(u64(segment) for segment in table), raw_nonce)
        out = section(out, b"FENC", b"".join(fence for _, fence in blocks), raw_nonce)
        rows += struct.pack("<QQIIQQ", shard, blocks_offset, narrow, len(blocks) - narrow, sections_offset, len(items))
    sections_offset = round_up(len(out), 8)
    entries = [e for _, e in volume.entries(lsn) if volume.exists(e.lsn)]
    out = section(out, b"SHRD", rows, raw_nonce)
    out = section(out, b"CTRL", controls_body(control_rows(entries)), raw_nonce)
    return close_index(out, b"CDPCKPT1", raw_nonce, Trailer(index_offset=sections_offset, sections=2, first_lsn=lsn))


def _shard_items(volume: VolumeWriter, pieces: list[tuple[int, int, int, int]]) -> tuple[list[RunItem], list[int]]:
    entries = {(e.lsn, e.start): (segment, e) for segment, e in volume.entries(volume.last_lsn)}
    table = sorted({segment for segment, entry in (entries[p[2], p[3]] for p in pieces) if entry.kind == DATA})
    items = []
    for start, sectors, lsn, entry_start in pieces:
        segment, entry = entries[lsn, entry_start]
        if entry.kind != DATA:  # zeros of several records are merged, so they have no LSN
            items.append(RunItem(start, 0, ZERO, sectors, 0, 0, 0))
            continue
        place = (table.index(segment), entry.offset, entry.stored)
        items.append(RunItem(start, lsn, DATA, sectors, *place, start - entry.start, entry.sectors))
    return items, table


__all__ = ["DAMAGED", "DATA", "SECTOR", "VOID", "Record", "VolumeWriter"]
