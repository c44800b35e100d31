"""What a sealed segment's footer must say: computed from the records of its batches that count."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from cdp.salvage.batch import COVERING, DATA, TRIM, ZERO, Batch, Entry, PayloadError
from cdp.salvage.compacted import ACTIVITY, activity_rows
from cdp.salvage.files import PAGE, SECTOR
from cdp.salvage.history import History
from cdp.salvage.indexed import Indexed
from cdp.salvage.recovery import Journal, Kept, Lost
from cdp.salvage.run import RunEntry
from cdp.salvage.segment import Segment

_MINUTE_NS = 60 * 10**9
_STAMP_ENTRIES = 256
_STAMP_BYTES = 64 << 10


@dataclass(slots=True)
class Expected:
    """A footer's contents. `lost`: LSNs of which the batches say nothing, so that nothing can be compared there.

    `tails`: where the tail may begin: where the last record's payload ends, or the last batch.
    """

    lost: list[Lost | Indexed] = field(default_factory=list)
    run: list[RunEntry] = field(default_factory=list)
    stamps: list[tuple[int, int, int]] = field(default_factory=list)
    minutes: dict[int, list[int]] = field(default_factory=dict)
    flush_points: list[int] = field(default_factory=list)
    controls: list[tuple[int, int, bytes]] = field(default_factory=list)
    entries: int = 0
    first: Entry | None = None
    last: Entry | None = None
    tails: set[int] = field(default_factory=set)
    _listed: tuple[int, int] | None = None

    def add_batch(self, batch: Batch) -> None:
        """A batch with records begins."""
        entries, offset = self._listed or (0, 0)
        if not self._listed or self.entries - entries >= _STAMP_ENTRIES or batch.offset - offset >= _STAMP_BYTES:
            self._listed = self.entries, batch.offset
            self.stamps.append((batch.first_lsn, batch.base_stamp, batch.offset))

    def add(self, entry: Entry) -> None:
        """The next entry."""
        new_record = self.last is None or self.last.lsn != entry.lsn
        self.first = self.first or entry
        self.last = entry
        self.entries += 1
        minute = self.minutes.setdefault(entry.stamp // _MINUTE_NS, [0, 0, 0, 0])
        if entry.kind not in COVERING:
            return
        offset = entry.offset if entry.kind == DATA else 0
        self.run.append(
            RunEntry(entry.start, entry.lsn, entry.kind, entry.sectors, 0, offset, entry.stored, 0, entry.sectors)
        )
        if entry.kind == DATA:
            minute[0] += new_record
            minute[2] += entry.sectors * SECTOR
            minute[3] += entry.stored
        elif entry.kind in (ZERO, TRIM):
            minute[1] += new_record


def expected_footer(segment: Segment, journal: Journal, history: History) -> Expected:
    """The footer of a sealed segment."""
    expected = Expected()
    for piece in journal.pieces:
        if piece.segment is not segment:
            continue
        if not isinstance(piece, Kept):
            expected.lost.append(piece)
            continue
        if isinstance(piece.batch, Batch):
            expected.add_batch(piece.batch)
        for entry in piece.entries():
            expected.add(entry)
    if expected.first and expected.last:
        first, last = expected.first.lsn, expected.last.lsn
        expected.controls = [(c.lsn, c.stamp, c.text) for c in history.controls_stored if first <= c.lsn <= last]
    expected.run.sort(key=lambda entry: (entry.start, entry.lsn))
    if segment.item.compacted:
        expected.minutes = _stored_minutes(segment)
        expected.tails = {max((batch.end for batch in segment.packed), default=PAGE)}
        return expected
    batches = [batch for batch in segment.batches if segment.owns(batch)]
    expected.flush_points = sorted({batch.durable_lsn for batch in batches if batch.is_flush_point})
    payload_end = expected.last.offset + expected.last.stored if expected.last else 0
    expected.tails = {max((batch.end for batch in batches), default=PAGE), payload_end}
    return expected


def _stored_minutes(segment: Segment) -> dict[int, list[int]]:
    """The activity of the segments that a compacted one replaced. A damaged payload is told where payloads are checked."""
    minutes: dict[int, list[int]] = {}
    for batch in segment.packed:
        for entry in segment.entries(batch):
            if entry.kind == ACTIVITY:
                with contextlib.suppress(PayloadError, ValueError):
                    minutes |= {row[0]: list(row[1:]) for row in activity_rows(segment.payload(entry))}
    return minutes
