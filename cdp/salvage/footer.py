"""A sealed segment's footer against the segment's own batches (docs/format.md, "Footer").

The footer is a pure function of the batches whose records count: each of its parts is computed again from them and
compared with what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cdp.salvage import run
from cdp.salvage.batch import CONTROL, DATA, TRIM, VOID, ZERO, Entry
from cdp.salvage.files import PAGE, SECTOR, StoredFile
from cdp.salvage.history import Control, History
from cdp.salvage.recovery import Journal, Kept, Lost
from cdp.salvage.report import Report
from cdp.salvage.run import RunEntry, RunError, Trailer
from cdp.salvage.segment import Segment

_MINUTE_NS = 60 * 10**9
_STAMP_ENTRIES = 256


@dataclass(slots=True)
class _Expected:
    """What the footer must say."""

    run: list[RunEntry] = field(default_factory=list)
    stamps: list[tuple[int, int, int]] = field(default_factory=list)
    minutes: dict[int, list[int]] = field(default_factory=dict)
    flush_points: set[int] = field(default_factory=set)
    controls: list[tuple[int, int, bytes]] = field(default_factory=list)
    entries: int = 0
    first: Entry | None = None
    last: Entry | None = None


def check_footer(segment: Segment, journal: Journal, history: History, report: Report) -> None:
    """Reads the whole footer of a sealed segment and compares it with the batches."""
    file = segment.file
    if file is None:
        return

    def complain(text: str) -> None:
        report.damage(segment.name, f"footer: {text}", segment=segment.item.id)

    if file.size != segment.item.file_bytes:
        complain(f"the file has {file.size} bytes, the manifest says {segment.item.file_bytes}")
    expected = _expected(segment, journal, history)
    lost = [piece for piece in journal.pieces if isinstance(piece, Lost) and piece.segment is segment]
    _compare_item(segment, expected, lost, complain)
    try:
        trailer = run.read_trailer(file, segment.nonce, b"CDPFOOT1")
    except RunError as error:
        complain(str(error))
        return
    _compare_trailer(segment, trailer, complain)
    blocks = _check_run(segment, file, trailer, expected, lost, complain)
    _check_sections(segment, file, trailer, expected, blocks, bool(lost), complain)


def _expected(segment: Segment, journal: Journal, history: History) -> _Expected:
    expected = _Expected()
    listed = None
    for piece in journal.pieces:
        if not isinstance(piece, Kept) or piece.segment is not segment:
            continue
        batch = piece.batch
        if listed is None or expected.entries - listed >= _STAMP_ENTRIES:
            listed = expected.entries
            expected.stamps.append((batch.first_lsn, batch.base_stamp, batch.offset))
        for entry in piece.entries():
            _count(expected, entry)
    own = {entry.lsn for entry in (expected.first, expected.last) if entry}
    expected.controls = [_control_row(c) for c in history.controls if own and min(own) <= c.lsn <= max(own)]
    expected.flush_points = {
        b.durable_lsn for b in segment.batches if b.is_flush_point and _of_segment(segment, b.first_lsn)
    }
    expected.run.sort(key=lambda entry: (entry.start, entry.lsn))
    return expected


def _of_segment(segment: Segment, first_lsn: int) -> bool:
    return first_lsn <= segment.item.last_lsn + 1


def _control_row(control: Control) -> tuple[int, int, bytes]:
    return control.lsn, control.stamp, control.text


def _count(expected: _Expected, entry: Entry) -> None:
    new_record = expected.last is None or expected.last.lsn != entry.lsn
    expected.first = expected.first or entry
    expected.last = entry
    expected.entries += 1
    if entry.kind in (VOID, CONTROL):
        return
    offset = entry.offset if entry.kind == DATA else 0
    expected.run.append(
        RunEntry(entry.start, entry.lsn, entry.kind, entry.sectors, 0, offset, entry.stored, 0, entry.sectors)
    )
    minute = expected.minutes.setdefault(entry.stamp // _MINUTE_NS, [0, 0, 0, 0])
    if entry.kind == DATA:
        minute[0] += new_record
        minute[2] += entry.sectors * SECTOR
        minute[3] += entry.stored
    elif entry.kind in (ZERO, TRIM):
        minute[1] += new_record


def _compare_item(segment: Segment, expected: _Expected, lost: list[Lost], complain: Callable[[str], None]) -> None:
    item = segment.item
    if lost or expected.first is None or expected.last is None:
        return
    for what, said, found in (
        ("number of entries", item.entries, expected.entries),
        ("first LSN", item.first_lsn, expected.first.lsn),
        ("last LSN", item.last_lsn, expected.last.lsn),
        ("first stamp", item.first_stamp, expected.first.stamp),
        ("last stamp", item.last_stamp, expected.last.stamp),
        ("clock epoch", item.clock_epoch, segment.batches[0].clock_epoch),
    ):
        if said != found:
            complain(f"the manifest says {what} {said}, the batches {found}")


def _compare_trailer(segment: Segment, trailer: Trailer, complain: Callable[[str], None]) -> None:
    item = segment.item
    for what, said, found in (
        ("footer offset", item.footer_offset, trailer.index_offset),
        ("first LSN", item.first_lsn, trailer.first_lsn),
        ("last LSN", item.last_lsn, trailer.last_lsn),
        ("first stamp", item.first_stamp, trailer.first_stamp),
        ("last stamp", item.last_stamp, trailer.last_stamp),
        ("clock epoch", item.clock_epoch, trailer.clock_epoch),
    ):
        if said != found:
            complain(f"the manifest says {what} {said}, the trailer {found}")


def _check_run(
    segment: Segment,
    file: StoredFile,
    trailer: Trailer,
    expected: _Expected,
    lost: list[Lost],
    complain: Callable[[str], None],
) -> list[list[RunEntry] | None]:
    blocks = read_blocks(
        file, segment.nonce, trailer.index_offset, trailer.narrow_blocks, trailer.wide_blocks, complain
    )
    narrow, wide = blocks[: trailer.narrow_blocks], blocks[trailer.narrow_blocks :]
    for name, part, is_wide in (("narrow", narrow, False), ("wide", wide, True)):
        if any(block is None for block in part):
            continue
        found = [_plain(entry) for block in part if block for entry in block]
        wanted = [entry for entry in expected.run if (entry.sectors > run.NARROW_SECTORS_MAX) == is_wide]
        difference = _difference(_known(found, lost), _known(wanted, lost))
        if difference:
            complain(f"{name} entries: {difference}")
    if len(blocks) == trailer.narrow_blocks + trailer.wide_blocks and all(blocks):
        total = sum(len(block) for block in blocks if block)
        if total != trailer.run_entries:
            complain(f"the trailer says {trailer.run_entries} entries in the run, there are {total}")
    return blocks


def _plain(entry: RunEntry) -> RunEntry:
    return entry if entry.kind == DATA else entry._replace(whole=entry.sectors)


def _known(entries: list[RunEntry], lost: list[Lost]) -> list[RunEntry]:
    return [e for e in entries if not any(gap.first_lsn <= e.lsn <= gap.last_lsn for gap in lost)]


def _difference(found: list[RunEntry], wanted: list[RunEntry]) -> str:
    for number, (one, other) in enumerate(zip(found, wanted, strict=False)):
        if one != other:
            return f"number {number} is {_show(one)}, the batches say {_show(other)}"
    if len(found) != len(wanted):
        return f"{len(found)} stored, the batches say {len(wanted)}"
    return ""


def _show(entry: RunEntry) -> str:
    return (
        f"LSN {entry.lsn} sectors {entry.start}..{entry.start + entry.sectors} kind {entry.kind} "
        f"table index {entry.segment_index} at {entry.offset} stored {entry.stored}"
    )


def read_blocks(
    file: StoredFile, nonce: bytes, offset: int, narrow: int, wide: int, complain: Callable[[str], None]
) -> list[list[RunEntry] | None]:
    """The blocks of a run, None for each that is damaged; the damage is told to `complain`."""
    blocks: list[list[RunEntry] | None] = []
    if offset % PAGE:
        complain(f"the run at {offset} does not begin on a page")
    for number in range(narrow + wide):
        if offset + number * PAGE >= file.size:
            complain(f"block {number} lies behind the end of the file")
            return blocks
        try:
            blocks.append(run.read_block(file, nonce, offset + number * PAGE))
        except RunError as error:
            complain(str(error))
            blocks.append(None)
    return blocks


def check_fences(body: bytes | None, blocks: list[list[RunEntry] | None], complain: Callable[[str], None]) -> None:
    """Compares FENC with the blocks that could be read."""
    if body is None:
        if blocks:
            complain("there is no section FENC")
        return
    try:
        fences = run.fences(body)
    except RunError as error:
        complain(f"FENC: {error}")
        return
    if len(fences) != len(blocks):
        complain(f"FENC: {len(fences)} fences for {len(blocks)} blocks")
    for number, (fence, block) in enumerate(zip(fences, blocks, strict=False)):
        if block and fence != run.fence_of(block):
            complain(f"FENC: fence {number} is {tuple(fence)}, its block holds {tuple(run.fence_of(block))}")


def _check_sections(
    segment: Segment,
    file: StoredFile,
    trailer: Trailer,
    expected: _Expected,
    blocks: list[list[RunEntry] | None],
    incomplete: bool,
    complain: Callable[[str], None],
) -> None:
    limit = file.size - run.TRAILER_BYTES
    start, count = trailer.sections_offset, trailer.section_count
    sections = run.read_sections(file, segment.nonce, start, count, limit, complain)
    run_end = trailer.index_offset + PAGE * len(blocks)
    for begin, end in ((run_end, trailer.sections_offset), (sections.end, limit)):
        if end > begin and any(file.read(begin, end - begin)):
            complain(f"padding at {begin}..{end}: not zero")
    check_fences(sections.bodies.get(b"FENC"), blocks, complain)
    for tag, decode, wanted in _wanted(segment, expected, incomplete):
        try:
            found = decode(sections.bodies[tag]) if tag in sections.bodies else None
        except RunError as error:
            complain(f"{tag.decode()}: {error}")
            continue
        if found != wanted and (found is not None or wanted):
            complain(f"{tag.decode()} does not say what the batches say: {_first_difference(found, wanted)}")


def _wanted(
    segment: Segment, expected: _Expected, incomplete: bool
) -> Iterator[tuple[bytes, Callable[[bytes], list[object]], list[object]]]:
    yield b"SEGS", _words, [segment.item.id]
    if incomplete:
        return
    yield b"CTRL", lambda body: list(run.controls(body)), list(expected.controls)
    yield b"STMP", lambda body: list(run.rows(body, "<QQQ")), list(expected.stamps)
    yield b"FLSH", lambda body: list(run.ascending(body)), [*sorted(expected.flush_points)]
    minutes: list[object] = [(minute, *row) for minute, row in sorted(expected.minutes.items())]
    yield b"STAT", lambda body: list(run.rows(body, "<QQQQQ")), minutes


def _words(body: bytes) -> list[object]:
    return list(run.words(body))


def _first_difference(found: list[object] | None, wanted: list[object]) -> str:
    if found is None:
        return "there is no such section"
    for one, other in zip(found, wanted, strict=False):
        if one != other:
            return f"{one} where {other} belongs"
    return f"{len(found)} items where {len(wanted)} belong"
