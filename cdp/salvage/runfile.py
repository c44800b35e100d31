"""A run's entries against those of the segments in its range (docs/format.md, "Runs")."""

from __future__ import annotations

from collections.abc import Iterator

from cdp.salvage.batch import COVERING, DATA, Entry
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.header import RUN_MAGIC, is_own_file
from cdp.salvage.hints import Shown, Thinned
from cdp.salvage.index import Block, IndexFile, RunTrailer
from cdp.salvage.items import RunItem
from cdp.salvage.recovery import Kept
from cdp.salvage.run import fence_of
from cdp.salvage.sections import RUN_TAGS, rows, words
from cdp.salvage.volume import Volume

_PART_BLOCKS = 512


def check_run(volume: Volume, item: RunItem, file: StoredFile, thinned: Thinned) -> None:
    """Reads a whole run and compares it with the segments."""
    index = IndexFile(file, item.nonce.to_bytes(8, "little"), volume.report)
    if file.size != item.file_bytes:
        index.complain(f"the file has {file.size} bytes, the manifest says {item.file_bytes}")
    if not is_own_file(file, RUN_MAGIC, volume.lineage.family, item.id, item.nonce, volume.report):
        return
    trailer = index.run_trailer(b"CDPRUNT1")
    if trailer is None:
        return
    if (trailer.first_lsn, trailer.last_lsn) != (item.first_lsn, item.last_lsn):
        said = f"LSNs {item.first_lsn} to {item.last_lsn}, the trailer {trailer.first_lsn} to {trailer.last_lsn}"
        index.complain(f"the manifest says {said}")
    blocks = index.blocks(PAGE, trailer.narrow_blocks + trailer.wide_blocks)
    if trailer.fences_offset != PAGE * (1 + len(blocks)):
        index.complain(f"its fences begin at {trailer.fences_offset}")
    parts = [*_parts(blocks[: trailer.narrow_blocks]), *_parts(blocks[trailer.narrow_blocks :])]
    stored = index.sections(trailer.fences_offset, (b"FENC",) * len(parts))
    if trailer.tables_offset != stored.end:
        index.complain(f"its tables begin at {trailer.tables_offset}")
    index.fences(stored.bodies.get(b"FENC"), blocks)
    tables = index.sections(trailer.tables_offset, RUN_TAGS)
    index.zeros(tables.end, index.end)
    _check_top(index, tables.bodies.get(b"TOPF"), parts)
    _compare(volume, item, index, thinned, _entries(index, trailer, blocks, tables.bodies.get(b"SEGS")))


def _parts(blocks: list[Block]) -> Iterator[list[Block]]:
    """The blocks whose fences are one section."""
    for at in range(0, len(blocks), _PART_BLOCKS):
        yield blocks[at : at + _PART_BLOCKS]


def _check_top(index: IndexFile, body: bytes | None, parts: list[list[Block]]) -> None:
    if body is None or any(not block for part in parts for block in part):
        return
    fences = [[fence_of(block) for block in part if block] for part in parts]
    wanted = [(min(fence.start for fence in part), max(fence.end for fence in part)) for part in fences]
    try:
        found = rows(body, "<QQ")
    except ValueError as error:
        index.complain(f"TOPF: {error}")
        return
    if found != wanted:
        index.complain(f"TOPF: {found}, the blocks say {wanted}")


def _entries(
    index: IndexFile, trailer: RunTrailer, blocks: list[Block], table_body: bytes | None
) -> list[Shown] | None:
    """The run's entries by LSN and start, None where they cannot be compared."""
    entries = [entry for block in blocks for entry in block or ()]
    try:
        table = words(table_body or b"")
    except ValueError as error:
        index.complain(f"SEGS: {error}")
        return None
    if None in blocks or table_body is None:
        return None
    if any(entry.kind == DATA and entry.segment_index >= len(table) for entry in entries):
        index.complain("an entry names a segment behind the end of SEGS")
        return None
    if len(entries) != trailer.entries:
        index.complain(f"{len(entries)} entries, the trailer says {trailer.entries}")
    shown = []
    for e in entries:
        place = (table[e.segment_index], e.offset, e.stored) if e.kind == DATA else (0, 0, 0)
        shown.append(Shown(e.start, e.end, e.kind, e.lsn, e.start - e.skip, e.whole, *place))
    return sorted(shown, key=_name)


def _compare(volume: Volume, item: RunItem, index: IndexFile, thinned: Thinned, found: list[Shown] | None) -> None:
    if found is None:
        return
    lost = [(p.first_lsn, p.last_lsn) for p in volume.journal.pieces if not isinstance(p, Kept)]
    known = [one for one in found if not any(first <= one.lsn <= last for first, last in lost)]
    position, met = 0, -1
    for wanted in _of_segments(volume, item):
        while position < len(known) and _name(known[position]) <= _name(wanted) and not _has(known[position], wanted):
            if position != met and not _surplus(index, item, thinned, known[position]):
                return
            position += 1
        if position == len(known) or not _has(known[position], wanted):
            index.complain(f"it lacks {wanted}")
            return
        if not _agree(thinned, known[position], wanted):
            index.complain(f"{known[position]} where {wanted} belongs")
            return
        # The next one may be of the same entry, of which compaction kept several pieces.
        met = position
    for one in known[met + 1 :]:
        if not _surplus(index, item, thinned, one):
            return


def _has(found: Shown, wanted: Shown) -> bool:
    return found.lsn == wanted.lsn and found.start <= wanted.start and wanted.end <= found.end


def _agree(thinned: Thinned, found: Shown, wanted: Shown) -> bool:
    whole = found[:2] == wanted[:2]
    return thinned.same(found, wanted) and (whole or (found.kind == DATA and thinned.may_lack(found.lsn)))


def _surplus(index: IndexFile, item: RunItem, thinned: Thinned, found: Shown) -> bool:
    """Whether an entry without a record is one that compaction gave up."""
    if item.first_lsn <= found.lsn <= item.last_lsn and thinned.may_lack(found.lsn):
        return True
    index.complain(f"no segment has its {found}")
    return False


def _of_segments(volume: Volume, item: RunItem) -> Iterator[Shown]:
    for piece in volume.journal.pieces:
        if isinstance(piece, Kept) and piece.first_lsn <= item.last_lsn and piece.last_lsn >= item.first_lsn:
            shown = [shown_entry(e) for e in piece.entries() if e.kind in COVERING]
            yield from sorted((one for one in shown if item.first_lsn <= one.lsn <= item.last_lsn), key=_name)


def shown_entry(entry: Entry) -> Shown:
    """An entry of a segment as an index shows it."""
    place = (entry.segment, entry.offset, entry.stored) if entry.kind == DATA else (0, 0, 0)
    return Shown(entry.start, entry.end, entry.kind, entry.lsn, entry.start, entry.sectors, *place)


def _name(shown: Shown) -> tuple[int, int]:
    return shown.lsn, shown.start
