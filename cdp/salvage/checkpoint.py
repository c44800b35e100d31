"""A checkpoint's extent map against the map rebuilt from the segments (docs/format.md, "Checkpoints").

Two maps are the same when each sector reads the same: from the same payload at the same place, as zeros, as lost, or
from below. Which of several neighbouring zero records a sector comes from does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cdp.salvage import run
from cdp.salvage.batch import DATA, TRIM, ZERO
from cdp.salvage.extents import Extent, ExtentMap
from cdp.salvage.files import PAGE, SECTOR, StoredFile
from cdp.salvage.footer import check_fences, read_blocks
from cdp.salvage.history import History
from cdp.salvage.manifest import CheckpointItem
from cdp.salvage.report import Report
from cdp.salvage.run import RunEntry, RunError
from cdp.salvage.segment import check_file_header

SHARD_SECTORS = 1 << 21
_SHARD_ROW = "<QQIIQQ"

Piece = tuple[int, int, str, int, int, int]  # start, end, what it shows, LSN, segment, payload offset; of data only


@dataclass(frozen=True, slots=True)
class _Shard:
    number: int
    blocks_offset: int
    narrow_blocks: int
    wide_blocks: int
    sections_offset: int
    entries: int


def check_checkpoint(
    file: StoredFile, item: CheckpointItem, volume: str, extents: ExtentMap, history: History, report: Report
) -> None:
    """Reads a whole checkpoint and compares it with `extents`, the map at its LSN."""

    def complain(text: str) -> None:
        report.damage(file.name, text)

    if file.size != item.file_bytes:
        complain(f"the file has {file.size} bytes, the manifest says {item.file_bytes}")
    if not check_file_header(file, b"CDPCKP01", volume, item.id, item.nonce, report):
        return
    nonce = item.nonce.to_bytes(8, "little")
    try:
        trailer = run.read_trailer(file, nonce, b"CDPCKPT1")
    except RunError as error:
        complain(str(error))
        return
    if trailer.first_lsn != item.lsn:
        complain(f"the manifest says LSN {item.lsn}, the trailer {trailer.first_lsn}")
    limit = file.size - run.TRAILER_BYTES
    sections = run.read_sections(file, nonce, trailer.index_offset, 2, limit, complain)
    if any(file.read(sections.end, limit - sections.end)):
        complain(f"padding at {sections.end}..{limit}: not zero")
    _check_controls(sections.bodies.get(b"CTRL"), item.lsn, history, complain)
    size = history.size_at(item.lsn) // SECTOR
    position = PAGE
    for shard in _shards(sections.bodies.get(b"SHRD"), complain):
        if any(file.read(position, shard.blocks_offset - position)):
            complain(f"padding at {position}..{shard.blocks_offset}: not zero")
        position = max(position, _check_shard(file, nonce, shard, extents, size, limit, complain))
    if any(file.read(position, trailer.index_offset - position)):
        complain(f"padding at {position}..{trailer.index_offset}: not zero")


def _shards(body: bytes | None, complain: Callable[[str], None]) -> list[_Shard]:
    if body is None:
        complain("there is no section SHRD")
        return []
    try:
        shards = [_Shard(*row) for row in run.rows(body, _SHARD_ROW)]
    except RunError as error:
        complain(f"SHRD: {error}")
        return []
    return sorted(shards, key=lambda shard: shard.blocks_offset)


def _check_controls(body: bytes | None, lsn: int, history: History, complain: Callable[[str], None]) -> None:
    wanted = [(control.lsn, control.stamp, control.text) for control in history.controls if control.lsn <= lsn]
    try:
        found = run.controls(body or b"")
    except RunError as error:
        complain(f"CTRL: {error}")
        return
    if found != wanted:
        complain(f"CTRL: {len(found)} control records, not the {len(wanted)} of the segments")


def _check_shard(
    file: StoredFile,
    nonce: bytes,
    shard: _Shard,
    extents: ExtentMap,
    size: int,
    limit: int,
    complain: Callable[[str], None],
) -> int:
    def complain_here(text: str) -> None:
        complain(f"shard {shard.number}: {text}")

    blocks = read_blocks(file, nonce, shard.blocks_offset, shard.narrow_blocks, shard.wide_blocks, complain_here)
    blocks_end = shard.blocks_offset + PAGE * len(blocks)
    if any(file.read(blocks_end, shard.sections_offset - blocks_end)):
        complain_here(f"padding at {blocks_end}..{shard.sections_offset}: not zero")
    sections = run.read_sections(file, nonce, shard.sections_offset, 2, limit, complain_here)
    check_fences(sections.bodies.get(b"FENC"), blocks, complain_here)
    entries = [entry for block in blocks if block for entry in block]
    try:
        table = run.words(sections.bodies.get(b"SEGS", b""))
    except RunError as error:
        complain_here(f"SEGS: {error}")
        table = []
    if any(block is None for block in blocks) or any(e.kind == DATA and e.segment_index >= len(table) for e in entries):
        complain_here("its map cannot be compared")
        return sections.end
    if len(entries) != shard.entries:
        complain_here(f"{len(entries)} entries, SHRD says {shard.entries}")
    start = shard.number * SHARD_SECTORS
    end = min(start + SHARD_SECTORS, size)
    found = _merged(_stored_pieces(entries, table, end))
    wanted = _merged(_rebuilt_pieces(extents.between(start, end)))
    if found != wanted:
        complain_here(f"its map is not the one of the segments: {_difference(found, wanted)}")
    return sections.end


def _stored_pieces(entries: list[RunEntry], table: list[int], size: int) -> Iterator[Piece]:
    for entry in sorted(entries, key=lambda entry: entry.start):
        end = min(entry.start + entry.sectors, size)
        if entry.start >= end:
            continue
        if entry.kind == DATA:
            origin = entry.start - entry.skip
            yield (
                entry.start,
                end,
                f"data from {origin}+{entry.whole}",
                entry.lsn,
                table[entry.segment_index],
                entry.offset,
            )
        else:
            yield entry.start, end, _shown(entry.kind), 0, 0, 0


def _rebuilt_pieces(extents: Iterable[Extent]) -> Iterator[Piece]:
    for start, end, entry in extents:
        if entry.kind == DATA:
            yield start, end, f"data from {entry.start}+{entry.sectors}", entry.lsn, entry.segment, entry.offset
        else:
            yield start, end, _shown(entry.kind), 0, 0, 0


def _shown(kind: int) -> str:
    return "zeros" if kind in (ZERO, TRIM) else "lost"


def _merged(pieces: Iterable[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if merged and merged[-1][1] == piece[0] and merged[-1][2:] == piece[2:]:
            merged[-1] = (merged[-1][0], *piece[1:])
        else:
            merged.append(piece)
    return merged


def _difference(found: list[Piece], wanted: list[Piece]) -> str:
    for one, other in zip(found, wanted, strict=False):
        if one != other:
            return f"{_show(one)} where {_show(other)} belongs"
    return f"{len(found)} extents where {len(wanted)} belong"


def _show(piece: Piece) -> str:
    start, end, what, lsn, segment, offset = piece
    source = f" of LSN {lsn} in segment {segment} at {offset}" if lsn else ""
    return f"{start}..{end} {what}{source}"
