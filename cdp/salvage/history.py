"""What a volume's records say as a whole: its sizes, bookmarks, clock epochs, and which LSN an instant names.

docs/format.md, "The state at an LSN". LSN 0 is the state before the first record, at the volume's creation.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field

from cdp.errors import Invalid, NotFound
from cdp.salvage.batch import CONTROL, Entry, PayloadError, checked_payload
from cdp.salvage.catalog import SECTORS_MAX
from cdp.salvage.files import SECTOR
from cdp.salvage.indexed import Indexed
from cdp.salvage.recovery import Journal, Kept, Lost
from cdp.salvage.report import Report
from cdp.salvage.segment import Segment
from cdp.salvage.when import Bookmark, Edge, Number, When, show_stamp


@dataclass(frozen=True, slots=True)
class Control:
    """A control record. `fields` is its JSON object, or None where it is none; `text` its bytes as they are stored."""

    lsn: int
    stamp: int
    text: bytes
    fields: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """The records of one batch, or lost ones: LSNs first..last with their stamps."""

    piece: Kept | Lost | Indexed
    first_lsn: int
    first_stamp: int
    last_lsn: int
    last_stamp: int


@dataclass(frozen=True, slots=True)
class Instant:
    """A position in the history. `other_lsn`: the second candidate of an ambiguous time, else None."""

    lsn: int
    stamp: int
    other_lsn: int | None = None


@dataclass(slots=True)
class History:
    """A volume's timeline. `size` in bytes and `created` (a stamp) are those of LSN 0."""

    size: int
    created: int
    stretches: list[Stretch] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    clock_epochs: dict[int, list[Stretch]] = field(default_factory=dict)

    @property
    def latest(self) -> Instant:
        """The last record."""
        if not self.stretches:
            return Instant(0, self.created)
        return Instant(self.stretches[-1].last_lsn, self.stretches[-1].last_stamp)

    def size_at(self, lsn: int) -> int:
        """The volume's size in bytes at an LSN."""
        size = self.size
        for control in self.controls:
            if control.lsn <= lsn and (resized := resized_to(control.fields)) is not None:
                size = resized
        return size

    def bookmarks(self) -> dict[str, int]:
        """The LSN of each bookmark: the newest of a name counts, unless it was removed later."""
        marks: dict[str, int] = {}
        for control in self.controls:
            fields = control.fields or {}
            name, lsn = fields.get("name"), fields.get("lsn")
            if fields.get("type") == "bookmark" and isinstance(name, str) and isinstance(lsn, int):
                marks[name] = lsn
            elif fields.get("type") == "bookmark-removed" and isinstance(name, str):
                marks.pop(name, None)
        return marks

    def resolve(self, when: When, now: int) -> Instant:
        """The LSN that `when` names. Raises NotFound for an unknown bookmark, Invalid outside the reachable range."""
        if isinstance(when, Edge):
            return self.latest if when.newest else Instant(0, self.created)
        if isinstance(when, Number):
            return self._at_lsn(when.lsn)
        if isinstance(when, Bookmark):
            marks = self.bookmarks()
            if when.name not in marks:
                raise NotFound(f"no bookmark {when.name}; there are: {', '.join(sorted(marks)) or 'none'}")
            return self._at_lsn(marks[when.name])
        if when.stamp > max(now, self.latest.stamp):
            raise Invalid(f"{show_stamp(when.stamp)} is in the future; {self.range()}")
        return self._at_time(when.stamp)

    def range(self) -> str:
        """The range that can be reached, for people."""
        latest = self.latest
        return f"reachable: LSN 0 ({show_stamp(self.created)}) to LSN {latest.lsn} ({show_stamp(latest.stamp)})"

    def _at_lsn(self, lsn: int) -> Instant:
        if lsn > self.latest.lsn:
            raise Invalid(f"there is no LSN {lsn} yet; {self.range()}")
        at = bisect_right(self.stretches, lsn, key=lambda stretch: stretch.first_lsn) - 1
        if at < 0:
            return Instant(lsn, self.created)
        stretch = self.stretches[at]
        known = [entry.stamp for entry in stretch.piece.entries() if entry.lsn <= lsn]
        return Instant(lsn, known[-1])

    def _at_time(self, stamp: int) -> Instant:
        epochs = {number: stretches[0].first_stamp for number, stretches in self.clock_epochs.items()}
        epochs[0] = self.created  # clock epoch 0 also holds the time from creation to the first record
        holding = [number for number, began in epochs.items() if began <= stamp]
        if not holding:
            raise Invalid(f"{show_stamp(stamp)} is before the volume's creation; {self.range()}")
        newest = max(holding)
        found = self._newest_at(newest, stamp)
        other = None
        for number in sorted(holding):
            last = self.clock_epochs[number][-1].last_stamp if number in self.clock_epochs else self.created
            if number < newest and stamp <= last and epochs[newest] <= last:
                other = self._newest_at(number, stamp).lsn
        return Instant(found.lsn, found.stamp, other)

    def _newest_at(self, clock_epoch: int, stamp: int) -> Instant:
        stretches = self.clock_epochs.get(clock_epoch, [])
        at = bisect_right(stretches, stamp, key=lambda stretch: stretch.first_stamp) - 1
        if at < 0:
            return Instant(0, self.created)
        found = [entry for entry in stretches[at].piece.entries() if entry.stamp <= stamp][-1]
        return Instant(found.lsn, found.stamp)


def read_history(journal: Journal, size: int, created: int, report: Report) -> History:
    """Reads the records' stamps and the control records; a control record that is damaged is reported and left out."""
    history = History(size, created)
    for piece in journal.pieces:
        if isinstance(piece, Indexed):
            history.controls += [_control(piece.segment, *row, report) for row in piece.controls]
        first = last = None
        for entry in piece.entries():
            first = first or entry
            last = entry
            if entry.kind == CONTROL and (control := _read_control(piece.segment, entry, report)) is not None:
                history.controls.append(control)
        if first is None or last is None:
            continue
        stretch = Stretch(piece, first.lsn, first.stamp or created, piece.last_lsn, last.stamp or created)
        history.stretches.append(stretch)
        history.clock_epochs.setdefault(piece.clock_epoch, []).append(stretch)
    return history


def resized_to(fields: dict[str, object] | None) -> int | None:
    """The size in bytes that a resize sets; None where the record is no valid resize."""
    size = fields.get("size") if fields and fields.get("type") == "resize" else None
    valid = isinstance(size, int) and size % SECTOR == 0 and 1 <= size // SECTOR <= SECTORS_MAX
    return size if valid and isinstance(size, int) else None


def _read_control(segment: Segment, entry: Entry, report: Report) -> Control | None:
    if segment.file is None:
        return None
    try:
        text = checked_payload(segment.file, segment.volume_nonce, entry)
    except PayloadError as error:
        report.damage(segment.name, f"control record: {error}", segment=segment.item.id, lsn=entry.lsn)
        return None
    return _control(segment, entry.lsn, entry.stamp, text, report)


def _control(segment: Segment, lsn: int, stamp: int, text: bytes, report: Report) -> Control:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        report.damage(segment.name, "control record: no JSON object", segment=segment.item.id, lsn=lsn)
        fields = None
    return Control(lsn, stamp, text, fields)
