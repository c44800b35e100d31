"""A checkpoint's extent map against the map rebuilt from the segments (docs/format.md, "Checkpoints").

Two maps are the same when each sector reads the same: from the same payload at the same place, as zeros, as lost, or
from below. Which of several neighbouring zero records a sector comes from does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cdp.salvage.batch import DATA, TRIM, ZERO
from cdp.salvage.extents import Extent, ExtentMap
from cdp.salvage.files import PAGE, SECTOR, StoredFile
from cdp.salvage.history import History
from cdp.salvage.index import IndexFile
from cdp.salvage.manifest import CheckpointItem
from cdp.salvage.run import RunEntry
from cdp.salvage.sections import controls, rows, words
from cdp.salvage.segment import check_file_header
from cdp.salvage.volume import Volume

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


def check_checkpoint(volume: Volume, item: CheckpointItem, file: StoredFile, extents: ExtentMap) -> None:
    """Reads a whole checkpoint and compares it with `extents`, the map at its LSN."""
    index = IndexFile(file, item.nonce.to_bytes(8, "little"), volume.report)
    if file.size != item.file_bytes:
        index.complain(f"the file has {file.size} bytes, the manifest says {item.file_bytes}")
    if not check_file_header(file, b"CDPCKP01", volume.folder.name, item.id, item.nonce, volume.report):
        return
    trailer = index.trailer(b"CDPCKPT1")
    if trailer is None:
        return
    if trailer.first_lsn != item.lsn:
        index.complain(f"the manifest says LSN {item.lsn}, the trailer {trailer.first_lsn}")
    stored = index.sections(trailer.index_offset, 2)
    index.zeros(stored.end, index.end)
    _check_controls(index, stored.bodies.get(b"CTRL", b""), item.lsn, volume.history)
    size = volume.history.size_at(item.lsn) // SECTOR
    position = PAGE
    for shard in _shards(index, stored.bodies.get(b"SHRD")):
        index.zeros(position, shard.blocks_offset)
        position = max(position, _check_shard(index, shard, extents, size))
    index.zeros(position, trailer.index_offset)


def _shards(index: IndexFile, body: bytes | None) -> list[_Shard]:
    if body is None:
        index.complain("there is no section SHRD")
        return []
    try:
        shards = [_Shard(*row) for row in rows(body, _SHARD_ROW)]
    except ValueError as error:
        index.complain(f"SHRD: {error}")
        return []
    return sorted(shards, key=lambda shard: shard.blocks_offset)


def _check_controls(index: IndexFile, body: bytes, lsn: int, history: History) -> None:
    wanted = [(control.lsn, control.stamp, control.text) for control in history.controls if control.lsn <= lsn]
    try:
        found = controls(body)
    except ValueError as error:
        index.complain(f"CTRL: {error}")
        return
    if found != wanted:
        index.complain(f"CTRL: {len(found)} control records, not the {len(wanted)} of the segments")


def _check_shard(whole: IndexFile, shard: _Shard, extents: ExtentMap, size: int) -> int:
    index = replace(whole, prefix=f"shard {shard.number}: ")
    blocks = index.blocks(shard.blocks_offset, shard.narrow_blocks + shard.wide_blocks)
    index.zeros(shard.blocks_offset + PAGE * len(blocks), shard.sections_offset)
    stored = index.sections(shard.sections_offset, 2)
    index.fences(stored.bodies.get(b"FENC"), blocks)
    entries = [entry for block in blocks for entry in block or ()]
    try:
        table = words(stored.bodies.get(b"SEGS", b""))
    except ValueError as error:
        index.complain(f"SEGS: {error}")
        table = []
    if None in blocks or any(e.kind == DATA and e.segment_index >= len(table) for e in entries):
        index.complain("its map cannot be compared")
        return stored.end
    if len(entries) != shard.entries:
        index.complain(f"{len(entries)} entries, SHRD says {shard.entries}")
    start = shard.number * SHARD_SECTORS
    end = min(start + SHARD_SECTORS, size)
    found = _merged(_stored_pieces(entries, table, end))
    wanted = _merged(_rebuilt_pieces(extents.between(start, end)))
    if found != wanted:
        index.complain(f"its map is not the one of the segments: {_difference(found, wanted)}")
    return stored.end


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
