"""What a volume's records say as a whole: its sizes, bookmarks, rollbacks and clock epochs, and what can be reached.

docs/format.md, "The state at an LSN", "Lineage". Records of an ancestor behind the base are none of this volume's: they
are in `controls_stored` alone, which is what the files hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cdp.salvage.batch import CONTROL, ROLLBACK, Entry, PayloadError
from cdp.salvage.controls import Control, bookmarks_of, decode_control, resized_to, rollback_control, rolled_back_to
from cdp.salvage.indexed import Indexed
from cdp.salvage.items import Manifest, Mark
from cdp.salvage.lineage import Jump, Lineage, Path, path_of
from cdp.salvage.recovery import Journal, Kept, Lost
from cdp.salvage.report import Report
from cdp.salvage.segment import Segment

Piece = Kept | Lost | Indexed


@dataclass(frozen=True, slots=True)
class Stretch:
    """Records of one piece of the journal, all above the horizon: LSNs first..last with their stamps."""

    piece: Piece
    first_lsn: int
    first_stamp: int
    last_lsn: int
    last_stamp: int

    def marks(self) -> Iterator[Mark]:
        """Each entry of the records; the first number alone where nothing is known of them."""
        clock_epoch = self.piece.clock_epoch
        yield Mark(self.first_lsn, self.first_stamp, clock_epoch)
        for entry in self.piece.entries():
            if self.first_lsn <= entry.lsn <= self.last_lsn:
                yield Mark(entry.lsn, entry.stamp or self.first_stamp, clock_epoch)


@dataclass(slots=True)
class Clock:
    """A clock epoch: the first and last stamp of its records, and its stretches above the horizon."""

    began: int
    ended: int
    stretches: list[Stretch] = field(default_factory=list)


@dataclass(slots=True)
class History:
    """A volume's timeline. `size` in bytes and `created` (a stamp) are those of LSN 0.

    `marks`: the points below the horizon, then the horizon. `controls_stored` also holds an ancestor's later records.
    """

    size: int
    created: int
    lineage: Lineage
    marks: list[Mark]
    stretches: list[Stretch] = field(default_factory=list)
    controls_stored: list[Control] = field(default_factory=list)
    rollbacks: list[Jump] = field(default_factory=list)
    clocks: dict[int, Clock] = field(default_factory=dict)

    @property
    def horizon(self) -> Mark:
        """From here on every record is an instant."""
        return self.marks[-1]

    @property
    def controls(self) -> list[Control]:
        """The control records of this timeline, and its rollbacks as an index writes them."""
        return [control for control in self.controls_stored if self.lineage.exists(control.lsn)]

    def bookmarks(self) -> dict[str, int]:
        """The LSN of each bookmark. They belong to the timeline: a rollback leaves them."""
        return bookmarks_of(self.controls)

    def path(self, lsn: int) -> Path:
        """The records that make up the state at an LSN."""
        return path_of(lsn, self.lineage.jumps(self.rollbacks))

    def size_at(self, lsn: int) -> int:
        """The volume's size in bytes at an LSN."""
        path = self.path(lsn)
        sizes = [resized_to(control) for control in self.controls if path.holds(control.lsn)]
        return [self.size, *(size for size in sizes if size is not None)][-1]


def read_history(
    journal: Journal, lineage: Lineage, manifest: Manifest, size: int, created: int, report: Report
) -> History:
    """Reads the records' stamps, rollbacks and control records; what is damaged is reported and left out."""
    horizon = manifest.horizon or Mark(0, created, 0)
    below = [mark for lsn, mark in sorted(manifest.points.items()) if lsn < horizon.lsn and lineage.exists(lsn)]
    history = History(size, created, lineage, [*below, horizon])
    for mark in history.marks:
        _tick(history, mark.clock_epoch, mark.stamp)
    for item in manifest.segments.values():
        if item.compacted and lineage.exists(item.last_lsn):
            _tick(history, item.clock_epoch, item.first_stamp, item.last_stamp)
    for piece in journal.pieces:
        _read_piece(history, piece, report)
    return history


def _read_piece(history: History, piece: Piece, report: Report) -> None:
    if isinstance(piece, Indexed):
        for lsn, stamp, text in piece.controls:
            control = decode_control(lsn, stamp, text)
            _add_control(history, piece.segment, control, report)
            if (back := rolled_back_to(control)) is not None:
                _add_rollback(history, piece.segment, lsn, back, report)
    first = above = last = None
    for entry in piece.entries():
        if entry.kind == CONTROL:
            _read_control(history, piece.segment, entry, report)
        elif entry.kind == ROLLBACK:
            _add_control(history, piece.segment, rollback_control(entry.lsn, entry.stamp, entry.start), report)
            _add_rollback(history, piece.segment, entry.lsn, entry.start, report)
        if history.lineage.exists(entry.lsn):
            first, last = first or entry, entry
            above = above or (entry if entry.lsn > history.horizon.lsn else None)
    if first is not None and last is not None:
        _tick(history, piece.clock_epoch, first.stamp or history.created, last.stamp)
    if isinstance(piece, Kept):
        if above is not None and last is not None:
            _add_stretch(history, Stretch(piece, above.lsn, above.stamp, last.lsn, last.stamp))
    elif piece.last_lsn > history.horizon.lsn:  # what is lost has numbers, but perhaps no entries
        stamp = piece.stamp or history.created
        _add_stretch(history, Stretch(piece, piece.first_lsn, stamp, piece.last_lsn, stamp))


def _add_stretch(history: History, stretch: Stretch) -> None:
    _tick(history, stretch.piece.clock_epoch, stretch.first_stamp, stretch.last_stamp)
    history.stretches.append(stretch)
    history.clocks[stretch.piece.clock_epoch].stretches.append(stretch)


def _tick(history: History, clock_epoch: int, first_stamp: int, last_stamp: int = 0) -> None:
    clock = history.clocks.setdefault(clock_epoch, Clock(first_stamp, first_stamp))
    clock.began = min(clock.began, first_stamp)
    clock.ended = max(clock.ended, first_stamp, last_stamp)


def _add_rollback(history: History, segment: Segment, lsn: int, back: int, report: Report) -> None:
    if back >= lsn:
        text = f"a rollback to LSN {back}, which is not before it: left out"
        report.damage(segment.name, text, segment=segment.item.id, lsn=lsn)
    elif history.lineage.exists(lsn):
        history.rollbacks.append((lsn, back))


def _read_control(history: History, segment: Segment, entry: Entry, report: Report) -> None:
    try:
        text = segment.payload(entry)
    except PayloadError as error:
        report.damage(segment.name, f"control record: {error}", segment=segment.item.id, lsn=entry.lsn)
        return
    _add_control(history, segment, decode_control(entry.lsn, entry.stamp, text), report)


def _add_control(history: History, segment: Segment, control: Control, report: Report) -> None:
    if control.fields is None:
        report.damage(segment.name, "control record: no JSON object", segment=segment.item.id, lsn=control.lsn)
    history.controls_stored.append(control)
