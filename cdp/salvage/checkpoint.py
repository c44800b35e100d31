"""A checkpoint's extent map against the map rebuilt from the segments (docs/format.md, "Checkpoints").

Two maps are the same when each sector reads the same: from the same payload at the same place, as zeros, as lost, or
from below. Which of several neighbouring zero records a sector comes from does not matter, since a checkpoint merges
them. It may still show what compaction has given up since, where a newer record covers it at every instant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from cdp.salvage.batch import DATA
from cdp.salvage.extents import ExtentMap
from cdp.salvage.files import PAGE, SECTOR, StoredFile
from cdp.salvage.header import CHECKPOINT_MAGIC, is_own_file
from cdp.salvage.hints import Shown, Thinned
from cdp.salvage.index import IndexFile
from cdp.salvage.items import CheckpointItem
from cdp.salvage.lineage import Path
from cdp.salvage.run import RunEntry
from cdp.salvage.runfile import shown_entry
from cdp.salvage.sections import CHECKPOINT_TAGS, SHARD_TAGS, controls, rows, words
from cdp.salvage.volume import Volume

SHARD_SECTORS = 1 << 21
_SHARD_ROW = "<QQIIQQ"


@dataclass(frozen=True, slots=True)
class _Shard:
    number: int
    blocks_offset: int
    narrow_blocks: int
    wide_blocks: int
    sections_offset: int
    entries: int


@dataclass(frozen=True, slots=True)
class _Map:
    """The map that a checkpoint must show: `extents` of the records on `path`, which ends at `lsn`."""

    lsn: int
    path: Path
    extents: ExtentMap
    thinned: Thinned
    sectors: int


def check_checkpoint(
    volume: Volume, item: CheckpointItem, file: StoredFile, extents: ExtentMap, thinned: Thinned
) -> None:
    """Reads a whole checkpoint and compares it with `extents`, the map at its LSN."""
    index = IndexFile(file, item.nonce.to_bytes(8, "little"), volume.report)
    if file.size != item.file_bytes:
        index.complain(f"the file has {file.size} bytes, the manifest says {item.file_bytes}")
    if not is_own_file(file, CHECKPOINT_MAGIC, volume.lineage.family, item.id, item.nonce, volume.report):
        return
    trailer = index.trailer(b"CDPCKPT1")
    if trailer is None:
        return
    if trailer.first_lsn != item.lsn:
        index.complain(f"the manifest says LSN {item.lsn}, the trailer {trailer.first_lsn}")
    stored = index.sections(trailer.index_offset, CHECKPOINT_TAGS)
    index.zeros(stored.end, index.end)
    _check_controls(index, stored.bodies.get(b"CTRL", b""), item.lsn, volume, thinned)
    history = volume.history
    wanted = _Map(item.lsn, history.path(item.lsn), extents, thinned, history.size_at(item.lsn) // SECTOR)
    position = PAGE
    for shard in _shards(index, stored.bodies.get(b"SHRD")):
        index.zeros(position, shard.blocks_offset)
        position = max(position, _check_shard(index, shard, wanted))
    index.zeros(position, trailer.index_offset)


def _shards(index: IndexFile, body: bytes | None) -> list[_Shard]:
    if body is None:
        return []
    try:
        shards = [_Shard(*row) for row in rows(body, _SHARD_ROW)]
    except ValueError as error:
        index.complain(f"SHRD: {error}")
        return []
    return sorted(shards, key=lambda shard: shard.blocks_offset)


def _check_controls(index: IndexFile, body: bytes, lsn: int, volume: Volume, thinned: Thinned) -> None:
    stored = volume.history.controls
    wanted = [(control.lsn, control.stamp, control.text) for control in stored if control.lsn <= lsn]
    try:
        found = controls(body)
    except ValueError as error:
        index.complain(f"CTRL: {error}")
        return
    given_up = [row for row in found if row not in wanted and thinned.may_lack(row[0])]
    if [row for row in found if row not in given_up] != wanted:
        index.complain(f"CTRL: {len(found)} control records, not the {len(wanted)} of the segments")


def _check_shard(whole: IndexFile, shard: _Shard, wanted: _Map) -> int:
    index = replace(whole, prefix=f"shard {shard.number}: ")
    blocks = index.blocks(shard.blocks_offset, shard.narrow_blocks + shard.wide_blocks)
    index.zeros(shard.blocks_offset + PAGE * len(blocks), shard.sections_offset)
    stored = index.sections(shard.sections_offset, SHARD_TAGS)
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
    end = min(start + SHARD_SECTORS, wanted.sectors)
    found = [_shown(entry, table, end) for entry in sorted(entries, key=lambda entry: entry.start) if entry.start < end]
    rebuilt = [shown_entry(entry)._replace(start=at, end=to) for at, to, entry in wanted.extents.between(start, end)]
    for one, other in _overlaid(found, rebuilt):
        if not _agree(one, other, wanted):
            index.complain(
                f"its map is not the one of the segments: {one or 'nothing'} where {other or 'nothing'} belongs"
            )
            break
    return stored.end


def _shown(entry: RunEntry, table: list[int], end: int) -> Shown:
    place = (table[entry.segment_index], entry.offset, entry.stored) if entry.kind == DATA else (0, 0, 0)
    return Shown(entry.start, min(entry.end, end), entry.kind, entry.lsn, entry.start - entry.skip, entry.whole, *place)


def _overlaid(one: list[Shown], other: list[Shown]) -> Iterator[tuple[Shown | None, Shown | None]]:
    """What two maps show, wherever one of them changes."""
    edges = sorted({edge for shown in (*one, *other) for edge in shown[:2]})
    at = [0, 0]
    for start, end in pairwise(edges):
        cut: list[Shown | None] = []
        for side, shown in enumerate((one, other)):
            while at[side] < len(shown) and shown[at[side]].end <= start:
                at[side] += 1
            covers = at[side] < len(shown) and shown[at[side]].start <= start
            cut.append(shown[at[side]]._replace(start=start, end=end) if covers else None)
        yield cut[0], cut[1]


def _agree(found: Shown | None, rebuilt: Shown | None, wanted: _Map) -> bool:
    """Whether the checkpoint is right about a stretch: as the segments say, or what they have given up since."""
    if found is None or (rebuilt is not None and wanted.thinned.same(found, rebuilt)):
        return found is not None or rebuilt is None
    covered = rebuilt.lsn if rebuilt else 0
    if found.kind == DATA:
        return found.lsn > covered and wanted.path.holds(found.lsn) and wanted.thinned.may_lack(found.lsn)
    return wanted.thinned.may_lack_between(covered, wanted.lsn)
