"""Which files make up a volume's journal: `manifest.0` and `manifest.1` (docs/format.md, "manifest.0, manifest.1").

A copy counts up to its last valid frame; of two copies the one that ends in the larger generation counts. Damage can be
told from what a crash leaves only after a clean stop, when the copies must be the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from cdp.errors import Invalid
from cdp.salvage.crc import crc32c
from cdp.salvage.files import read_whole
from cdp.salvage.items import ITEM_BYTES, Manifest
from cdp.salvage.report import Report

FORMAT = 2
_LATER = "format version"
COPIES = ("manifest.0", "manifest.1")
_HEADER = struct.Struct("<8sII16sQQ16x")
_FRAME = struct.Struct("<4sIQII8x")
_SNAPSHOT, _EDIT = 1, 2


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
        if magic != b"CDPF" or len(body) != body_bytes or body_bytes % ITEM_BYTES:
            return
        if crc != crc32c(fixed, body, volume):
            return
        if not _may_follow(copy.generation, generation, kind):
            return
        if kind == _SNAPSHOT:
            copy.manifest = Manifest()
        for at in range(0, body_bytes, ITEM_BYTES):
            copy.manifest.apply(body[at : at + ITEM_BYTES])
        copy.generation = generation
        copy.end += _FRAME.size + body_bytes


def _may_follow(before: int | None, generation: int, kind: int) -> bool:
    if before is None:
        return kind == _SNAPSHOT
    return kind in (_SNAPSHOT, _EDIT) and generation == before + 1
