"""A sealed segment's footer against the segment's own batches (docs/format.md, "Footer").

The footer is a pure function of the batches whose records count: each of its parts is computed again from them and
compared with what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cdp.salvage import sections
from cdp.salvage.batch import COVERING, DATA, TRIM, ZERO
from cdp.salvage.crc import extend_crc32c
from cdp.salvage.expected import Expected, expected_footer
from cdp.salvage.files import PAGE
from cdp.salvage.history import History
from cdp.salvage.index import Block, IndexFile, Trailer
from cdp.salvage.indexed import Indexed
from cdp.salvage.items import SegmentItem
from cdp.salvage.recovery import Journal, Lost
from cdp.salvage.report import Report
from cdp.salvage.run import NARROW_SECTORS_MAX, RunEntry
from cdp.salvage.segment import Segment

_CHUNK_BYTES = 1 << 20


def check_footer(segment: Segment, journal: Journal, history: History, report: Report) -> None:
    """Reads the whole footer of a sealed segment and compares it with the batches."""
    if segment.file is None:
        return
    item = segment.item
    index = IndexFile(segment.file, segment.nonce, report, item.id, "footer: ")
    if segment.file.size != item.file_bytes:
        index.complain(f"the file has {segment.file.size} bytes, the manifest says {item.file_bytes}")
    expected = expected_footer(segment, journal, history)
    _compare_item(index, segment, expected)
    trailer = index.trailer(b"CDPFOOT1")
    if trailer is None:
        return
    _compare_trailer(index, item, trailer)
    _check_tail(index, segment, trailer, expected)
    blocks = index.blocks(trailer.index_offset, trailer.narrow_blocks + trailer.wide_blocks)
    _compare_run(index, trailer, blocks, expected)
    stored = index.sections(trailer.sections_offset, sections.FOOTER_TAGS)
    if trailer.section_count != len(sections.FOOTER_TAGS):
        index.complain(f"the trailer says {trailer.section_count} sections")
    index.zeros(trailer.index_offset + PAGE * len(blocks), trailer.sections_offset)
    index.zeros(stored.end, index.end)
    index.fences(stored.bodies.get(b"FENC"), blocks)
    _compare_sections(index, stored.bodies, item, expected)


def _compare_item(index: IndexFile, segment: Segment, expected: Expected) -> None:
    item, first, last = segment.item, expected.first, expected.last
    if expected.lost or first is None or last is None:
        return
    if item.compacted:  # its LSNs and stamps are those of the segments that it replaced
        if item.entries not in (0, expected.entries):
            index.complain(f"the manifest says {item.entries} entries, the batches {expected.entries}")
        if not item.first_lsn <= first.lsn <= last.lsn <= item.last_lsn:
            index.complain(f"LSNs {first.lsn} to {last.lsn}, the manifest says {item.first_lsn} to {item.last_lsn}")
        return
    for what, said, found in (
        ("number of entries", item.entries or expected.entries, expected.entries),  # 0: the list was rebuilt
        ("first LSN", item.first_lsn, first.lsn),
        ("last LSN", item.last_lsn, last.lsn),
        ("first stamp", item.first_stamp, first.stamp),
        ("last stamp", item.last_stamp, last.stamp),
        ("clock epoch", item.clock_epoch, segment.batches[0].clock_epoch),
    ):
        if said != found:
            index.complain(f"the manifest says {what} {said}, the batches {found}")


def _compare_trailer(index: IndexFile, item: SegmentItem, trailer: Trailer) -> None:
    for what, said, found in (
        ("footer offset", item.footer_offset, trailer.index_offset),
        ("first LSN", item.first_lsn, trailer.first_lsn),
        ("last LSN", item.last_lsn, trailer.last_lsn),
        ("first stamp", item.first_stamp, trailer.first_stamp),
        ("last stamp", item.last_stamp, trailer.last_stamp),
        ("clock epoch", item.clock_epoch, trailer.clock_epoch),
    ):
        if said != found:
            index.complain(f"the manifest says {what} {said}, the trailer {found}")


def _check_tail(index: IndexFile, segment: Segment, trailer: Trailer, expected: Expected) -> None:
    """Behind the last record's payload, or the last batch, is what a torn tail left: it must be as it was then."""
    start, end = trailer.tail_offset, trailer.index_offset
    if not PAGE <= start <= end:
        index.complain(f"the tail is said to begin at {start}")
        return
    crc = 0
    for at in range(start, end, _CHUNK_BYTES):
        crc = extend_crc32c(crc, index.file.read(at, min(_CHUNK_BYTES, end - at)))
    if crc != trailer.tail_crc:
        index.complain(f"tail {start}..{end}: the checksum is wrong")
    if not expected.lost and start not in expected.tails:
        index.complain(f"the tail begins at {start}, the last batch that can be read ends at {max(expected.tails)}")


def _compare_run(index: IndexFile, trailer: Trailer, blocks: list[Block], expected: Expected) -> None:
    narrow, wide = blocks[: trailer.narrow_blocks], blocks[trailer.narrow_blocks :]
    total = 0
    for name, part, is_wide in (("narrow", narrow, False), ("wide", wide, True)):
        found = [entry for block in part for entry in block or ()]
        total += len(found)
        if any(block is None for block in part):
            continue
        wanted = [entry for entry in expected.run if (entry.sectors > NARROW_SECTORS_MAX) == is_wide]
        if difference := _difference(_comparable(found, expected.lost), _comparable(wanted, expected.lost)):
            index.complain(f"{name} entries: {difference}")
    if all(blocks) and total != trailer.run_entries:
        index.complain(f"the trailer says {trailer.run_entries} entries in the run, there are {total}")


def _comparable(entries: list[RunEntry], lost: list[Lost | Indexed]) -> list[RunEntry]:
    """What can be compared: not what is lost, and not the difference of zero and trim, which read the same."""
    known = [e for e in entries if not any(gap.first_lsn <= e.lsn <= gap.last_lsn for gap in lost)]
    return [e._replace(kind=ZERO) if e.kind == TRIM else e for e in known]


def _difference(found: list[RunEntry], wanted: list[RunEntry]) -> str:
    for number, (one, other) in enumerate(zip(found, wanted, strict=False)):
        if one != other:
            return f"number {number} is {_show(one)}, the batches say {_show(other)}"
    return "" if len(found) == len(wanted) else f"{len(found)} stored, the batches say {len(wanted)}"


def _show(entry: RunEntry) -> str:
    place = f", {entry.stored} bytes at {entry.offset}" if entry.kind == DATA else ""
    sliced = f", {entry.skip} skipped of {entry.whole}" if (entry.skip, entry.whole) != (0, entry.sectors) else ""
    where = f"{COVERING[entry.kind]} {entry.start}..{entry.end} of LSN {entry.lsn}"
    return f"{where}, table index {entry.segment_index}{place}{sliced}"


def _compare_sections(index: IndexFile, stored: dict[bytes, bytes], item: SegmentItem, expected: Expected) -> None:
    for tag, decode, wanted in _wanted(item, expected):
        name = tag.decode()
        if tag not in stored:
            continue
        try:
            found = decode(stored[tag])
        except ValueError as error:
            index.complain(f"{name}: {error}")
            continue
        if found != wanted:
            index.complain(f"{name} is not what the batches say: {_first_difference(found, wanted)}")


def _wanted(item: SegmentItem, expected: Expected) -> Iterator[tuple[bytes, Callable[[bytes], list[Any]], list[Any]]]:
    if expected.lost:
        return
    yield b"SEGS", sections.words, [item.id] if any(entry.kind == DATA for entry in expected.run) else []
    yield b"CTRL", sections.controls, expected.controls
    yield b"STMP", lambda body: sections.rows(body, "<QQQ"), expected.stamps
    yield b"FLSH", sections.ascending, expected.flush_points
    minutes = [(minute, *row) for minute, row in sorted(expected.minutes.items())]
    yield b"STAT", lambda body: sections.rows(body, "<QQQQQ"), minutes


def _first_difference(found: list[Any], wanted: list[Any]) -> str:
    for one, other in zip(found, wanted, strict=False):
        if one != other:
            return f"{one} where {other} belongs"
    return f"{len(found)} items where {len(wanted)} belong"
