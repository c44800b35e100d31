"""A volume that is open: its description, its journal, its origin and its bookmarks, in one place.

Invariants:
- The origin is open as long as the journal is, and was recognised before the journal was touched.
- The bookmarks and the policy held here are those of the journal: they change only with a control record that became durable.
- Every method may be called from any thread and may wait; the native calls release the GIL.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from cdp import marks, when
from cdp.catalog import Entry
from cdp.errors import CdpError, Invalid, NotFound
from cdp.facts import BookmarkFacts, InstantFacts
from cdp.keeper import Keeper
from cdp.names import check_name
from cdp.origin import OpenOrigin, open_accepted
from cdp.retention import policy
from cdp.retention.policy import Policy

if TYPE_CHECKING:
    from cdp import _native
    from cdp.retention.plan import Plan
    from cdp.when import When


class OpenVolume:
    """Opens the volume of a catalog entry, for writing unless `read_only`.

    `with_origin`: False leaves the origin alone, for work that looks at the journal and at no block.

    Errors: Busy if somebody else writes to it, Invalid if its origin changed, Corrupt, Io.
    """

    def __init__(self, entry: Entry, *, read_only: bool = False, with_origin: bool = True) -> None:
        from cdp import _native  # noqa: PLC0415 (the command line starts without it)

        self.entry = entry
        self._allowance: int | None = None
        self._allowed: tuple[int | None, str] | None = None
        # Who changes bookmarks or policy holds it; who reads takes what is there, for they are replaced, never changed. Reentrant: the
        # keeper takes bookmarks away while nobody else may.
        self._marks_lock = threading.RLock()
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
            controls = self.native.controls()
            self._bookmarks = marks.bookmarks(controls)
            self._policy = policy.newest(controls)
            self.keeper = None if read_only else Keeper(self)
            self.allow(None)
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

    def instant(self, wanted: When) -> InstantFacts:
        """The same as plain values, and whether it is what was asked for."""
        found = self.resolve(wanted)
        return replace(instant_facts(found), kept_point=when.below_horizon(self.native, found, wanted))

    def bookmarks(self) -> list[BookmarkFacts]:
        """In the order of their instants."""
        return sorted(self._bookmarks.values(), key=lambda mark: (mark.lsn, mark.name))

    def add_bookmark(
        self,
        name: str,
        wanted: When,
        *,
        force: bool = False,
        held: bool = False,
        expires_stamp: int | None = None,
        common_stamp: int | None = None,
    ) -> BookmarkFacts:
        """Names an instant, durably. Invalid if the name is in use and `force` does not say to move it, or if it would expire at once."""
        check_name(name, "bookmark")
        if expires_stamp is not None and expires_stamp <= time.time_ns():
            raise Invalid(f"the bookmark {name!r} would expire at once, at {when.rfc3339(expires_stamp)}")
        with self._marks_lock:
            # Looked up under the lock: what is reachable now is not given up before it has its bookmark.
            instant = self.resolve(wanted)
            taken = self._bookmarks.get(name)
            if taken is not None and not force:
                raise Invalid(
                    f"{self.entry.name} has a bookmark {name!r} already, at lsn:{taken.lsn} ({when.rfc3339(taken.stamp)})"
                )
            record = marks.bookmark_record(
                name, instant.lsn, instant.stamp, held=held, expires_stamp=expires_stamp, common_stamp=common_stamp
            )
            made = self.native.instant_of_lsn(self.native.append_control(record)).stamp
            mark = BookmarkFacts(name, instant.lsn, instant.stamp, made, held, expires_stamp, common_stamp)
            self._bookmarks = {**self._bookmarks, name: mark}
            return mark

    def remove_bookmark(self, name: str) -> BookmarkFacts:
        """Takes a name away, durably; the one that it was. NotFound if there is none."""
        with self._marks_lock:
            mark = self._bookmarks.get(name)
            if mark is None:
                raise NotFound(f"{self.entry.name} has no bookmark {name[:200]!r}")
            self.native.append_control(marks.removal_record(name))
            self._bookmarks = {other: kept for other, kept in self._bookmarks.items() if other != name}
            return mark

    def resize(self, size: int) -> int | None:
        """Makes the volume larger, durably; the LSN of the record, None if it has that size. Invalid for less, and for what its budget could not hold."""
        with self._marks_lock:
            if size > self.native.size:
                policy.check_budget(self._policy[0], size)
            return self.native.resize(size)

    def policy(self) -> tuple[Policy, int | None]:
        """What the volume keeps, and the stamp of its record: None for the default."""
        return self._policy

    def set_policy(self, settings: Mapping[str, str]) -> Policy:
        """Changes settings, durably, and keeps to them from now on. Invalid for what cannot be."""
        with self._marks_lock:
            wanted = policy.changed(self._policy[0], settings)
            policy.check_budget(wanted, self.native.size)
            lsn = self.native.append_control(policy.encode(wanted))
            self._policy = (wanted, self.native.instant_of_lsn(lsn).stamp)
            self.allow(self._allowance)
            return wanted

    def allow(self, allowance: int | None) -> None:
        """The bytes of disk that it may use, if its own budget is not smaller; None: nobody else bounds it."""
        with self._marks_lock:
            self._allowance = allowance
            wanted = self._policy[0]
            bounds = [bound for bound in (allowance, wanted.budget) if bound is not None]
            allowed = (min(bounds, default=None), wanted.full)
            if self.keeper is not None and allowed != self._allowed:
                self.native.set_budget(*allowed)
                self._allowed = allowed

    def keep(self, now: int | None = None, *, force: bool = False) -> Plan | None:
        """Keeps the volume to its policy: what had to be done for that, None if nothing."""
        if self.keeper is None:
            return None
        with self._marks_lock:
            return self.keeper.round(self._policy[0], time.time_ns() if now is None else now, force=force)

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
