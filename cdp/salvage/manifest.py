"""Which files make up a volume's journal: `manifest.0` and `manifest.1` (docs/format.md, "manifest.0, manifest.1").

A copy counts up to its last valid frame; of two copies the one that ends in the larger generation counts. Damage can be
told from what a crash leaves only after a clean stop, when the copies must be the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from cdp.errors import Invalid
from cdp.salvage.crc import crc32c
from cdp.salvage.files import read_whole
from cdp.salvage.report import Report

FORMAT = 2
_LATER = "format version"
COPIES = ("manifest.0", "manifest.1")
_HEADER = struct.Struct("<8sII16sQQ16x")
_FRAME = struct.Struct("<4sIQII8x")
_ITEM_BYTES = 96
_SEGMENT = struct.Struct("<BBHIQQIIQQQQQQQ8x")
_CHECKPOINT = struct.Struct("<BBHIQQIIQ56x")
_STATE = struct.Struct("<BBHIQQIIQQ48x")
_SNAPSHOT, _EDIT = 1, 2


@dataclass(frozen=True, slots=True)
class SegmentItem:
    """A segment as the manifest names it. Of an open one only `id`, `nonce` and `epoch` count. Stamps in ns."""

    id: int
    sealed: bool
    nonce: int
    epoch: int
    clock_epoch: int = 0
    entries: int = 0
    first_lsn: int = 0
    last_lsn: int = 0
    first_stamp: int = 0
    last_stamp: int = 0
    footer_offset: int = 0
    file_bytes: int = 0
    previous_lsn: int = 0

    @property
    def file_name(self) -> str:
        """The name of the segment's file."""
        return f"segment-{self.id:08x}"


@dataclass(frozen=True, slots=True)
class CheckpointItem:
    """A checkpoint as the manifest names it: it shows the map at `lsn`."""

    id: int
    nonce: int
    lsn: int
    file_bytes: int

    @property
    def file_name(self) -> str:
        """The name of the checkpoint's file."""
        return f"checkpoint-{self.id:08x}"


@dataclass(frozen=True, slots=True)
class State:
    """The writer's state; `last_stamp` and `clock_epoch` count when it stopped cleanly.

    `lsn_floor`: after a clean stop the next LSN, else the first LSN of the epoch.
    """

    clean: bool
    epoch: int
    lsn_floor: int
    next_segment: int
    next_checkpoint: int
    last_stamp: int
    clock_epoch: int


@dataclass(slots=True)
class Manifest:
    """What the valid frames of one copy, or the files themselves (`rebuilt`), say."""

    segments: dict[int, SegmentItem] = field(default_factory=dict)
    checkpoints: dict[int, CheckpointItem] = field(default_factory=dict)
    state: State | None = None
    rebuilt: bool = False

    @property
    def clean(self) -> bool:
        """Whether the writer stopped cleanly."""
        return self.state is not None and self.state.clean


@dataclass(slots=True)
class _Copy:
    name: str
    content: bytes
    manifest: Manifest
    generation: int | None = None
    end: int = 0
    problem: str = ""


def read_manifest(folder: Path, size: int, report: Report) -> Manifest | None:
    """The manifest that counts, None where both copies are lost. Raises Invalid for a later format."""
    copies = [_read_copy(folder, name, size) for name in COPIES]
    for copy in copies:
        if copy.problem.startswith(_LATER):
            raise Invalid(f"{folder / copy.name}: {copy.problem}; this reader knows {FORMAT}")
    usable = [copy for copy in copies if copy.generation is not None]
    for copy in copies:
        if copy.generation is None:
            report.damage(copy.name, copy.problem)
    if not usable:
        return None
    best = max(usable, key=lambda copy: copy.generation or 0)
    for copy in usable:
        _compare(copy, best, report)
    return best.manifest


def _compare(copy: _Copy, best: _Copy, report: Report) -> None:
    """Bytes behind the last valid frame are a torn append, or after a clean stop rot."""
    behind = (best.generation or 0) - (copy.generation or 0)
    surplus = len(copy.content) - copy.end
    if surplus:
        text = f"{surplus} bytes behind the last valid frame, at {copy.end}"
        (report.damage if best.manifest.clean or behind > 1 else report.note)(copy.name, text)
    elif behind > 1:
        report.damage(copy.name, f"ends in generation {copy.generation}, {best.name} in {best.generation}")
    elif behind == 1:
        report.note(copy.name, f"one generation behind {best.name}, as a crash leaves it")
    elif copy.content[: copy.end] != best.content[: best.end]:
        report.damage(copy.name, f"differs from {best.name} in the same generation")


def _read_copy(folder: Path, name: str, size: int) -> _Copy:
    content = read_whole(folder / name)
    copy = _Copy(name, content or b"", Manifest())
    if content is None:
        copy.problem = "the file is missing"
        return copy
    copy.problem = _header_problem(content, folder.name, size)
    if not copy.problem:
        _read_frames(copy, bytes.fromhex(folder.name))
    return copy


def _header_problem(content: bytes, volume: str, size: int) -> str:
    if len(content) < _HEADER.size:
        return f"only {len(content)} bytes: no header"
    magic, version, crc, owner, created_size, _ = _HEADER.unpack_from(content)
    if crc != crc32c(content[:12], content[16:64]):
        return "the header's checksum is wrong"
    if magic != b"CDPMAN01":
        return "no manifest: the magic is wrong"
    if version not in (1, FORMAT):
        return f"{_LATER} {version}"
    return _foreign(owner.hex(), created_size, volume, size)


def _foreign(owner: str, created_size: int, volume: str, size: int) -> str:
    if owner != volume:
        return f"it belongs to volume {owner}: a foreign file"
    return "" if created_size == size else f"it says {created_size} bytes at creation, the description {size}"


def _read_frames(copy: _Copy, volume: bytes) -> None:
    copy.end = _HEADER.size
    copy.problem = "no valid snapshot frame behind the header"
    while copy.end + _FRAME.size <= len(copy.content):
        magic, crc, generation, body_bytes, kind = _FRAME.unpack_from(copy.content, copy.end)
        body = copy.content[copy.end + _FRAME.size : copy.end + _FRAME.size + body_bytes]
        fixed = copy.content[copy.end + 8 : copy.end + _FRAME.size]
        if magic != b"CDPF" or len(body) != body_bytes or body_bytes % _ITEM_BYTES:
            return
        if crc != crc32c(fixed, body, volume):
            return
        if not _may_follow(copy.generation, generation, kind):
            return
        if kind == _SNAPSHOT:
            copy.manifest = Manifest()
        for at in range(0, body_bytes, _ITEM_BYTES):
            _apply(copy.manifest, body[at : at + _ITEM_BYTES])
        copy.generation = generation
        copy.end += _FRAME.size + body_bytes


def _may_follow(before: int | None, generation: int, kind: int) -> bool:
    if before is None:
        return kind == _SNAPSHOT
    return kind in (_SNAPSHOT, _EDIT) and generation == before + 1


def _apply(manifest: Manifest, item: bytes) -> None:
    tag, flag, _, number = struct.unpack_from("<BBHI", item)
    if tag == 1:
        nonce, epoch, clock, entries, first, last, since, until, footer, size, previous = _SEGMENT.unpack(item)[4:]
        manifest.segments[number] = SegmentItem(
            number, bool(flag & 1), nonce, epoch, clock, entries, first, last, since, until, footer, size, previous
        )
    elif tag == 2:
        manifest.segments.pop(number, None)
    elif tag == 3:
        nonce, lsn, _, _, size = _CHECKPOINT.unpack(item)[4:]
        manifest.checkpoints[number] = CheckpointItem(number, nonce, lsn, size)
    elif tag == 4:
        manifest.checkpoints.pop(number, None)
    elif tag == 5:
        epoch, lsn_floor, next_segment, next_checkpoint, last_stamp, clock = _STATE.unpack(item)[4:]
        manifest.state = State(bool(flag & 1), epoch, lsn_floor, next_segment, next_checkpoint, last_stamp, clock)
