"""A volume that is open: its description, its journal, its origin and its bookmarks, in one place.

Invariants:
- The origin is open as long as the journal is, and was recognised before the journal was touched.
- The bookmarks held here are those of the journal: they change only with a control record that became durable.
- Every method may be called from any thread and may wait; the native calls release the GIL.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from cdp import marks, when
from cdp.catalog import Entry
from cdp.errors import CdpError, Invalid, NotFound
from cdp.facts import BookmarkFacts, InstantFacts
from cdp.names import check_name
from cdp.origin import OpenOrigin, open_accepted

if TYPE_CHECKING:
    from cdp import _native
    from cdp.when import When


class OpenVolume:
    """Opens the volume of a catalog entry, for writing unless `read_only`.

    `with_origin`: False leaves the origin alone, for work that looks at the journal and at no block.

    Errors: Busy if somebody else writes to it, Invalid if its origin changed, Corrupt, Io.
    """

    def __init__(self, entry: Entry, *, read_only: bool = False, with_origin: bool = True) -> None:
        from cdp import _native  # noqa: PLC0415 (the command line starts without it)

        self.entry = entry
        self._marks_lock = threading.Lock()
        self.checking = threading.Lock()
        accepted = entry.description.origin
        self._origin: OpenOrigin | None = None
        if accepted is not None and with_origin:
            self._origin = open_accepted(accepted, entry.name, claim=not read_only)
        try:
            self.native: _native.Volume = _native.Volume.open(
                str(entry.folder),
                read_only=read_only,
                origin_path=self._origin.path if self._origin else None,
                origin_reader=self._origin.reader if self._origin else None,
            )
        except BaseException:
            self._close_origin()
            raise
        try:
            self._bookmarks = marks.bookmarks(self.native.controls())
        except BaseException:
            with suppress(CdpError):
                self.close()
            raise

    def close(self) -> None:
        """Closes journal, then origin. Idempotent. What the journal's closing met is raised after both are closed."""
        try:
            self.native.close()
        finally:
            self._close_origin()

    def resolve(self, wanted: When, now: int | None = None) -> _native.Instant | when.Moment:
        """The instant that a WHEN names; NotFound with the reachable range (cdp/when.py)."""
        lsns = {mark.name: mark.lsn for mark in self.bookmarks()}
        try:
            return when.resolve(self.native, lsns, wanted, time.time_ns() if now is None else now)
        except NotFound as error:
            raise NotFound(f"{self.entry.name}: {error}") from error

    def bookmarks(self) -> list[BookmarkFacts]:
        """In the order of their instants."""
        with self._marks_lock:
            return sorted(self._bookmarks.values(), key=lambda mark: (mark.lsn, mark.name))

    def add_bookmark(self, name: str, wanted: When, *, force: bool = False) -> BookmarkFacts:
        """Names an instant, durably. Invalid if the name is in use and `force` does not say to move it."""
        check_name(name, "bookmark")
        instant = self.resolve(wanted)
        with self._marks_lock:
            taken = self._bookmarks.get(name)
            if taken is not None and not force:
                raise Invalid(
                    f"{self.entry.name} has a bookmark {name!r} already, at lsn:{taken.lsn} ({when.rfc3339(taken.stamp)})"
                )
            made = self.native.append_control(marks.bookmark_record(name, instant.lsn, instant.stamp))
            mark = BookmarkFacts(name, instant.lsn, instant.stamp, self.native.instant_of_lsn(made).stamp)
            self._bookmarks[name] = mark
            return mark

    def remove_bookmark(self, name: str) -> BookmarkFacts:
        """Takes a name away, durably; the one that it was. NotFound if there is none."""
        with self._marks_lock:
            mark = self._bookmarks.get(name)
            if mark is None:
                raise NotFound(f"{self.entry.name} has no bookmark {name[:200]!r}")
            self.native.append_control(marks.removal_record(name))
            del self._bookmarks[name]
            return mark

    def append_event(self, event: str, **details: str | int | None) -> None:
        """Records something that happened, durably."""
        self.native.append_control(marks.event_record(event, **details))

    def renamed(self, entry: Entry) -> None:
        """Takes over what the catalog says now."""
        self.entry = replace(entry, problems=())

    def _close_origin(self) -> None:
        if self._origin is not None:
            self._origin.close()
            self._origin = None


def instant_facts(instant: when.Moment) -> InstantFacts:
    """A native instant as plain values."""
    return InstantFacts(instant.lsn, instant.stamp, instant.clock_epoch, instant.other)
