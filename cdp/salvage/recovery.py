"""Which records count (docs/format.md, "Recovery of open segments", "The state at an LSN"), decided in memory.

Records come in the order of their LSNs, each batch linked to the record before it. In sealed segments, and at or below
the LSN known durable, a broken link or a missing record is damage and reading goes on behind it; above, it is a torn
tail, and everything from that LSN on does not count. The writer comes to the same result when it opens the volume.

No record is missing whose number is at or below the horizon and in no segment's range, lies in the range of a compacted
segment, or is one that an ancestor used behind the base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cdp.salvage.batch import DAMAGED, Batch, Entry, PayloadError
from cdp.salvage.catalog import SECTORS_MAX
from cdp.salvage.compacted import PackedBatch
from cdp.salvage.files import PAGE
from cdp.salvage.indexed import Indexed, read_indexed
from cdp.salvage.lineage import Lineage
from cdp.salvage.report import Report
from cdp.salvage.segment import Segment


@dataclass(frozen=True, slots=True)
class Kept:
    """A batch whose records at LSNs first..last count."""

    segment: Segment
    batch: Batch | PackedBatch
    first_lsn: int
    last_lsn: int

    @property
    def clock_epoch(self) -> int:
        """The clock epoch of its stamps."""
        return self.batch.clock_epoch

    def entries(self) -> Iterator[Entry]:
        """The entries that count, in the order of their LSNs."""
        for entry in self.segment.entries(self.batch):
            if entry.lsn > self.last_lsn:
                return
            if entry.lsn >= self.first_lsn:
                yield entry


@dataclass(frozen=True, slots=True)
class Lost:
    """Records of which no copy is left, at LSNs in first..last: nothing is known of any sector until covered again.

    `stamp` is the earliest that they can have, so that no time shows what they may have changed as if it were known.
    """

    segment: Segment
    first_lsn: int
    last_lsn: int
    stamp: int
    clock_epoch: int

    def entries(self) -> Iterator[Entry]:
        """A *damaged* entry for the whole address space, because a lost record may also have grown the volume."""
        yield Entry(self.first_lsn, self.stamp, DAMAGED, 0, SECTORS_MAX, 0, 0, self.segment.item.id)


@dataclass(slots=True)
class Journal:
    """The records that count, in the order of their LSNs. `cut_lsn`: where a torn tail was cut, else None."""

    segments: dict[int, Segment]
    pieces: list[Kept | Lost | Indexed] = field(default_factory=list)
    durable_lsn: int = 0
    cut_lsn: int | None = None

    def entries(self) -> Iterator[Entry]:
        """Every entry that counts; those of one record one behind the other."""
        for piece in self.pieces:
            yield from piece.entries()


def recover(
    segments: list[Segment], lineage: Lineage, horizon_lsn: int, clean_next_lsn: int | None, report: Report
) -> Journal:
    """Walks scanned segments; `clean_next_lsn` is the next LSN that a cleanly stopped writer left, else None."""
    sealed = sorted((s for s in segments if s.item.sealed), key=_sealed_order)
    unsealed = sorted((s for s in segments if not s.item.sealed), key=lambda s: s.item.id)
    walk = _Walk(Journal({s.item.id: s for s in segments}), lineage, horizon_lsn, report)
    for segment in sealed:
        walk.sealed(segment)
    noted = max((b.durable_lsn for s in unsealed for b in s.batches), default=0)
    walk.journal.durable_lsn = max(noted, walk.last_lsn, (clean_next_lsn or 1) - 1, lineage.floor)
    for segment in unsealed:
        _report_troubles(segment, walk.journal.durable_lsn, clean_next_lsn is not None, report)
    for segment in unsealed:
        if not walk.open(segment):
            break
    if unsealed and walk.journal.cut_lsn is None and noted >= lineage.next_number(walk.reach):
        walk.lose(unsealed[-1], noted)
    return walk.journal


def _sealed_order(segment: Segment) -> tuple[int, int]:
    return segment.item.first_lsn, segment.item.id


def _report_troubles(segment: Segment, durable_lsn: int, clean: bool, report: Report) -> None:
    for trouble in segment.troubles:
        if segment.item.sealed:
            if trouble.lsn <= segment.item.last_lsn:
                report.damage(segment.name, trouble.text, segment=segment.item.id, lsn=trouble.lsn)
        elif clean or trouble.open_lsn <= durable_lsn:
            report.damage(segment.name, trouble.text, segment=segment.item.id, lsn=trouble.lsn)
        else:
            report.note(segment.name, trouble.text, segment=segment.item.id, lsn=trouble.lsn)


class _Walk:
    """`last_lsn` is the last record so far. Up to `reach` every LSN is accounted for: read, lost or never used."""

    def __init__(self, journal: Journal, lineage: Lineage, horizon_lsn: int, report: Report) -> None:
        self.journal = journal
        self._lineage = lineage
        self._horizon_lsn = horizon_lsn
        self.last_lsn = 0
        self.reach = 0
        self._report = report

    def sealed(self, segment: Segment) -> None:
        """Takes a sealed segment: its records up to the last LSN that the manifest gives."""
        item = segment.item
        _report_troubles(segment, item.last_lsn, True, self._report)
        self.journal.durable_lsn = max(self.journal.durable_lsn, item.last_lsn)
        self._follow(item.first_lsn)
        # Behind a floor the manifest may name a record of the parent's, which does not exist here.
        self._enter(segment, self._lineage.last_before(item.previous_lsn, item.first_lsn))
        if item.compacted:
            self._compacted(segment)
            return
        for batch in segment.batches:
            if segment.owns(batch) and self._in_order(segment, batch):
                self._close_gap(segment, batch.previous_lsn)
                self._keep(segment, batch, item.first_lsn, item.last_lsn)
        self._close_gap(segment, item.last_lsn)

    def _compacted(self, segment: Segment) -> None:
        """Numbers without a record are not missing here; only a batch can be."""
        self.last_lsn = segment.item.first_lsn - 1
        before = 0
        for batch in segment.packed:
            if batch.previous_lsn != before:
                self._close_gap(segment, batch.previous_lsn)
            self.journal.pieces.append(Kept(segment, batch, batch.first_lsn, batch.last_lsn))
            self.last_lsn = before = batch.last_lsn
        if segment.troubles or not segment.packed:
            self._close_gap(segment, segment.item.last_lsn)
        self.last_lsn = segment.item.last_lsn
        self.reach = max(self.reach, self.last_lsn)

    def open(self, segment: Segment) -> bool:
        """Takes an open segment; False where its tail is torn, and with it the journal's."""
        durable = self.journal.durable_lsn
        for batch in segment.batches:
            self._follow(batch.first_lsn)
            if batch.offset == PAGE:
                self._enter(segment, min(batch.previous_lsn, durable))
            missing = self._lineage.next_number(self.last_lsn)
            if batch.previous_lsn >= missing:
                if missing <= durable:
                    self.lose(segment, min(batch.previous_lsn, durable))
                if batch.previous_lsn > durable:
                    missing = self._lineage.next_number(self.last_lsn)
                    return self._cut(segment, missing, "a record before the next batch is missing")
            if not self._in_order(segment, batch):
                if batch.entry_count and batch.first_lsn > durable:
                    return self._cut(segment, batch.first_lsn, "the batch does not follow the record before it")
                continue
            bad = self._first_bad(segment, batch)
            if bad is not None:
                if bad.lsn > batch.first_lsn:
                    self._keep(segment, batch, 0, bad.lsn - 1)
                return self._cut(segment, bad.lsn, f"the payload at {bad.offset} is incomplete")
            self._keep(segment, batch, 0, batch.last_lsn)
        return True

    def lose(self, segment: Segment, last_lsn: int) -> None:
        """The directories of the records behind the last one up to `last_lsn` are lost in both copies."""
        first_lsn, self.last_lsn = self._lineage.next_number(self.last_lsn), last_lsn
        self.reach = max(self.reach, last_lsn)
        stamp, clock_epoch = self._stamp_of(segment, first_lsn)
        indexed = read_indexed(segment, first_lsn, last_lsn, stamp)
        if indexed is not None:
            text = f"records up to LSN {last_lsn}: both copies of their directory are lost; the footer stands in"
            self._report.damage(segment.name, text, segment=segment.item.id, lsn=first_lsn)
            self.journal.pieces.append(indexed)
            return
        lost = Lost(segment, first_lsn, last_lsn, stamp, clock_epoch)
        self._report.damage(
            segment.name,
            f"records up to LSN {last_lsn} are lost, of which no copy is left: nothing is known of the whole volume",
            segment=segment.item.id,
            lsn=lost.first_lsn,
        )
        self.journal.pieces.append(lost)

    def _stamp_of(self, segment: Segment, lsn: int) -> tuple[int, int]:
        """The stamp and clock epoch of a record that is lost: the manifest's, else those of the record before it."""
        if segment.item.sealed and segment.item.first_lsn == lsn:
            return segment.item.first_stamp, segment.item.clock_epoch
        before = self.journal.pieces[-1] if self.journal.pieces else None
        entries = list(before.entries()) if before else []
        return (entries[-1].stamp if entries else 0), (before.clock_epoch if before else 0)

    def _follow(self, lsn: int) -> None:
        """What comes next begins at `lsn`: a clone's first record follows its base."""
        self.last_lsn = self._lineage.last_before(self.last_lsn, lsn)

    def _enter(self, segment: Segment, previous_lsn: int) -> None:
        """A segment begins behind `previous_lsn`. What is missing between segments up to the horizon was given up."""
        self.last_lsn = max(self.last_lsn, min(previous_lsn, self._horizon_lsn))
        self._close_gap(segment, previous_lsn)
        self.last_lsn = max(self.last_lsn, previous_lsn)

    def _close_gap(self, segment: Segment, last_lsn: int) -> None:
        """No record up to `last_lsn` may be missing."""
        if last_lsn >= self._lineage.next_number(self.last_lsn):
            self.lose(segment, last_lsn)

    def _in_order(self, segment: Segment, batch: Batch) -> bool:
        if batch.previous_lsn >= self.last_lsn and batch.first_lsn > self.last_lsn:
            return True
        if batch.entry_count and batch.first_lsn <= self.journal.durable_lsn:
            self._report.damage(
                segment.name,
                f"batch at {batch.offset} follows LSN {batch.previous_lsn}, not {self.last_lsn}: left out",
                segment=segment.item.id,
                lsn=batch.first_lsn,
            )
        return False

    def _first_bad(self, segment: Segment, batch: Batch) -> Entry | None:
        if segment.file is None or batch.last_lsn <= self.journal.durable_lsn:
            return None
        for entry in segment.entries(batch):
            if entry.lsn > self.journal.durable_lsn and entry.stored:
                try:
                    segment.payload(entry)
                except PayloadError:
                    return entry
        return None

    def _keep(self, segment: Segment, batch: Batch, first_lsn: int, last_lsn: int) -> None:
        first, last = max(first_lsn, batch.first_lsn), min(last_lsn, batch.last_lsn)
        if first <= last:
            self.journal.pieces.append(Kept(segment, batch, first, last))
            self.last_lsn = last
        self.reach = max(self.reach, self.last_lsn, batch.first_lsn - 1)

    def _cut(self, segment: Segment, lsn: int, why: str) -> bool:
        self.journal.cut_lsn = lsn
        self._report.note(segment.name, f"torn tail, cut from LSN {lsn} on: {why}", segment=segment.item.id, lsn=lsn)
        return False
