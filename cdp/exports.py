"""What an NBD client can open: NAME, the live volume; NAME@WHEN, the volume as it was (read-only); NAME@WHEN+scratch[=ID], a writable copy of that which is thrown away.

Invariants:
- A name is cut at its first `@`; of what follows, a trailing `+scratch` or `+scratch=ID` is cut off. A `+` before a digit belongs to the time.
- An absolute WHEN means one instant as long as any session holds an export of that very name: a bookmark that is moved meanwhile moves
  the next first opening, and only such exports (and live volumes) say that several connections see the same.
- A client with a certificate is told of no volume that it is not given, not even that it exists.
- The description carries the volume's ID, so that a client can tell where a URI leads, whatever lies between.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cdp.access import EVERYTHING, Grants, Level
from cdp.catalog import Catalog, Entry
from cdp.changes import parse_point
from cdp.description import SECTOR
from cdp.errors import CdpError, Denied, Invalid, NotFound
from cdp.metrics.figures import account_name
from cdp.names import check_name
from cdp.scratch import Scratch, ScratchViews
from cdp.table import Table
from cdp.volume import OpenVolume
from cdp.when import AtBookmark, Oldest, When, parse, relative, rfc3339

if TYPE_CHECKING:
    import trio

    from cdp import _native
    from cdp.nbd.front import Allowance

THREADS_MAX = 256
"""More than there can be handshakes (cdp/nbd/server.py): however many wait for one slow volume, the others open at once."""

INSTANTS_MAX = 64
"""Bookmarks that are listed, the newest ones, for a client that asks what it may compare with."""

T = TypeVar("T")

_SCRATCH = re.compile(r"\+scratch(?:=(.*))?", re.DOTALL)
_DESCRIPTION = re.compile(r"cdp volume ([0-9a-f]{32})(?:\b.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ExportName:
    """An export's name, taken apart. `when` None: the live volume. `scratch`: None, or the ID of a writable view ("": without)."""

    volume: str
    when: When | None = None
    scratch: str | None = None


def parse_export(name: str) -> ExportName:
    """Pure. Invalid if it cannot be the name of an export."""
    volume, at, rest = name.partition("@")
    check_name(volume, "volume")
    if not at:
        return ExportName(volume)
    scratch = None
    before, plus, after = rest.rpartition("+scratch")
    if plus and (found := _SCRATCH.fullmatch(plus + after)):
        rest, scratch = before, found[1] or ""
        if found[1] is not None:
            check_name(found[1], "scratch view")
    return ExportName(volume, parse(rest), scratch)


def describe(volume_id: str, instant: str = "") -> str:
    """The description of an export."""
    return f"cdp volume {volume_id}{instant}"


def described_volume(description: str) -> str | None:
    """The ID of the volume that a server's description of an export names, if a cdp server gave it."""
    found = _DESCRIPTION.fullmatch(description)
    return found[1] if found else None


class _Pin:
    """A view that several sessions of one name share."""

    def __init__(self, view: _native.View, lsn: int, stamp: int) -> None:
        self.view = view
        self.lsn = lsn
        self.stamp = stamp
        self.uses = 0


class OpenExport:
    """One use of an export (`cdp.nbd.exports.Export`)."""

    def __init__(
        self,
        exports: StoreExports,
        volume: OpenVolume,
        entry: Entry,
        pin: tuple[str, _Pin] | None = None,
        grants: Grants = EVERYTHING,
    ) -> None:
        """`pin` None: the live volume, writable where that is granted."""
        handle: _native.Volume | _native.View
        if pin is not None:
            handle = pin[1].view
        elif _level(grants, entry) is Level.WRITE:
            handle = volume.native
        else:
            handle = volume.native.live()
        self._exports = exports
        self._volume = volume
        self._volume_id = entry.id
        self._pin = pin
        self._grants = grants
        self._others: list[str] = []
        self._shared = pin is None or pin[0] != ""
        self._session: int | None = None
        self.handle = handle
        self.size = handle.size
        self._read_only = handle is not volume.native
        if pin is None:
            self.name = entry.name
            self.description: str | None = describe(entry.id)
            self.account = account_name(entry.id, "live")
        else:
            lsn, stamp = pin[1].lsn, pin[1].stamp
            self.name = f"{entry.name}@lsn:{lsn}"
            self.description = describe(entry.id, f" at lsn:{lsn}, {rfc3339(stamp)}")
            self.account = account_name(entry.id, "instant")

    @property
    def read_only(self) -> bool:
        return self._read_only

    @property
    def multi_conn(self) -> bool:
        return self._shared

    async def since(self, when: str) -> _native.View:
        return await self._exports.in_thread(lambda: self.since_now(when))

    def since_now(self, when: str) -> _native.View:
        """`since`, in the calling thread; waits."""
        point = parse_point(when)
        if point.volume is None:
            return self._comparable(self._volume, point.when)
        entry, other = self._exports.acquire(point.volume, self._grants)
        try:
            view = self._comparable(other, point.when)
        except BaseException:
            self._exports.let_go(entry.id, None)
            raise
        self._others.append(entry.id)
        return view

    def _comparable(self, volume: OpenVolume, wanted: When) -> _native.View:
        since = volume.native.view(volume.resolve(wanted).lsn)
        shown = self._volume.native.live() if self._pin is None else self._pin[1].view
        # Volumes without a common history are refused here, where the client can be told.
        shown.changed(since, 0, SECTOR, 1)
        return since

    async def instants(self) -> list[str]:
        return await self._exports.in_thread(self._instants)

    def _instants(self) -> list[str]:
        marks = self._volume.bookmarks()[-INSTANTS_MAX:]
        return [str(Oldest()), *(str(AtBookmark(mark.name)) for mark in marks if self._reaches(mark.lsn))]

    def _reaches(self, lsn: int) -> bool:
        try:
            self._volume.native.instant_of_lsn(lsn)
        except NotFound:
            return False
        return True

    async def enter(self, attach: Callable[[], int]) -> int:
        return await self._exports.at_home(lambda: self.enter_now(attach))

    def enter_now(self, attach: Callable[[], int]) -> int:
        """`enter`, in the calling thread."""
        if self.read_only:
            return attach()
        self._session = self._exports.writers.enter(self._volume_id, attach)
        return self._session

    def release(self) -> None:
        self._leave()
        self._exports.let_go(self._volume_id, self._pin)

    def _leave(self) -> None:
        for other in self._others:
            self._exports.let_go(other, None)
        if self._session is not None:
            self._exports.writers.left(self._volume_id, self._session)


class ScratchExport(OpenExport):
    """One use of a scratch view; writable."""

    def __init__(
        self, exports: StoreExports, entry: Entry, scratch: Scratch, views: ScratchViews, grants: Grants
    ) -> None:
        super().__init__(exports, scratch.volume, scratch.volume.entry)
        self._grants = grants
        self._parent_id = entry.id
        self._scratch = scratch
        self._views = views
        # Without an ID another connection by the same name gets another view.
        self._shared = scratch.scratch_id != ""
        called = f"={scratch.scratch_id}" if scratch.scratch_id else ""
        self.name = f"{entry.name}@lsn:{scratch.lsn}+scratch{called}"
        self.description = describe(entry.id, f" at lsn:{scratch.lsn}, {rfc3339(scratch.stamp)}, thrown away")
        self.account = account_name(entry.id, "scratch")

    def enter_now(self, attach: Callable[[], int]) -> int:
        session = super().enter_now(attach)
        self._views.enter(self._scratch)
        return session

    def release(self) -> None:
        self._leave()
        self._views.let_go(self._scratch)
        self._exports.let_go(self._parent_id, None)


class StoreExports:
    """The exports of a store (`cdp.nbd.exports.Exports`)."""

    def __init__(self, catalog: Catalog, table: Table, scratch: ScratchViews | None = None) -> None:
        """`scratch` None: there are no scratch views."""
        import trio  # noqa: PLC0415 (parsing a name needs no event loop)

        self._threads = trio.CapacityLimiter(THREADS_MAX)
        self._catalog = catalog
        self._table = table
        self._scratch = scratch
        self.writers = table.writers
        self._lock = threading.Lock()
        self._pins: dict[str, _Pin] = {}
        self._home: trio.lowlevel.TrioToken | None = None
        self._allowance: Allowance | None = None

    def settle(self) -> None:
        """From here on the calling event loop does what concerns volumes also for another one, of strangers: its threads have the priority that volumes need."""
        import trio  # noqa: PLC0415

        from cdp.nbd.front import Allowance  # noqa: PLC0415

        self._home = trio.lowlevel.current_trio_token()
        self._allowance = Allowance()

    async def names(self, grants: Grants = EVERYTHING) -> list[tuple[str, str]]:
        """The volumes that can be served, and what they are."""
        if self._is_elsewhere():
            return self.names_now(grants)
        return await self.in_thread(lambda: self.names_now(grants))

    async def open(self, name: str, grants: Grants = EVERYTHING) -> OpenExport:
        """Opens a volume or a view of it for one session."""
        if self._is_elsewhere():
            # A name that leads nowhere costs nobody else anything.
            self._find(self._wanted(name, grants).volume, grants)
        return await self.in_thread(lambda: self.open_now(name, grants))

    def _is_elsewhere(self) -> bool:
        import trio  # noqa: PLC0415

        return self._home is not None and trio.lowlevel.current_trio_token() is not self._home

    def granted(self, grants: Grants) -> GrantedExports:
        """The same, as far as a client may."""
        return GrantedExports(self, grants)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Work that waits, beside the event loop."""
        import trio  # noqa: PLC0415

        if self._home is None or self._allowance is None or not self._is_elsewhere():
            return await trio.to_thread.run_sync(work, limiter=self._threads)
        from cdp.nbd.front import across  # noqa: PLC0415

        took = 0.0

        def measured() -> T:
            nonlocal took
            since = time.thread_time()
            try:
                return work()
            finally:
                took = time.thread_time() - since

        await self._allowance.wait()
        try:
            return await across(self._home, lambda: trio.to_thread.run_sync(measured, limiter=self._threads))
        finally:
            self._allowance.charge(took)

    async def at_home(self, work: Callable[[], T]) -> T:
        """Work that does not wait, in the thread of the event loop."""

        if self._home is None:
            return work()
        from cdp.nbd.front import across  # noqa: PLC0415

        async def job() -> T:
            return work()

        return await across(self._home, job)

    def open_now(self, name: str, grants: Grants = EVERYTHING) -> OpenExport:
        """`open`, in the calling thread; waits."""
        wanted = self._wanted(name, grants)
        if wanted.scratch is not None and self._scratch is None:
            raise Invalid(f"{name[:200]!r}: there are no writable views (+scratch) here")
        entry, volume = self.acquire(wanted.volume, grants)
        try:
            if self._scratch is not None and wanted.scratch is not None and wanted.when is not None:
                if _level(grants, entry) is not Level.WRITE:
                    raise Denied(f"{entry.name}: you may read it, but not make scratch views of it")
                scratch = self._scratch.open(volume, wanted.when, wanted.scratch)
                return ScratchExport(self, entry, scratch, self._scratch, grants)
            if wanted.when is None:
                return OpenExport(self, volume, entry, grants=grants)
            # What is relative is looked up each time; the rest is shared by name, under the ID: volumes can be renamed.
            key = "" if relative(wanted.when) else f"{entry.id}@{wanted.when}"
            with self._lock:
                pin = self._pins.get(key)
                if pin is not None:
                    pin.uses += 1
            if pin is None:
                instant = volume.resolve(wanted.when)
                pin = self._pinned(key, _Pin(volume.native.view(instant.lsn), instant.lsn, instant.stamp))
            return OpenExport(self, volume, entry, (key, pin), grants)
        except BaseException:
            self._table.release(entry.id)
            raise

    def acquire(self, name: str, grants: Grants = EVERYTHING) -> tuple[Entry, OpenVolume]:
        """One use of a volume, until it is let go. Waits. NotFound also for one that is not granted."""
        entry = self._find(name, grants)
        return entry, self._table.acquire(entry)

    def _find(self, name: str, grants: Grants) -> Entry:
        try:
            entry = self._catalog.find(name)
        except CdpError:
            # What the catalog says may name a volume that this client is not to know of.
            if grants.level(name):
                raise
        else:
            if _level(grants, entry):
                return entry
        raise NotFound(f"there is no volume {name[:200]!r} for you")

    def failure(self, volume_id: str) -> str | None:
        """Why the volume could not be opened when it was last asked for; None: it could, or nobody asked."""
        return self._table.failure(volume_id)

    def let_go(self, volume_id: str, pin: tuple[str, _Pin] | None) -> None:
        """Ends one use of an export. Does not wait."""
        if pin is not None and pin[0]:
            with self._lock:
                pin[1].uses -= 1
                if not pin[1].uses:
                    del self._pins[pin[0]]
        self._table.release(volume_id)

    def _pinned(self, key: str, pin: _Pin) -> _Pin:
        if not key:
            return pin
        with self._lock:
            # Another session may have been faster: its instant is the one.
            pin = self._pins.setdefault(key, pin)
            pin.uses += 1
            return pin

    def _wanted(self, name: str, grants: Grants) -> ExportName:
        return ExportName(self._only(grants)) if name == "" else parse_export(name)

    def names_now(self, grants: Grants = EVERYTHING) -> list[tuple[str, str]]:
        """`names`, in the calling thread."""
        return [
            (entry.name, describe(entry.id))
            for entry in self._catalog.entries()
            if isinstance(entry, Entry) and not entry.deleted and _level(grants, entry)
        ]

    def _only(self, grants: Grants) -> str:
        names = [name for name, _ in self.names_now(grants)]
        if len(names) != 1:
            raise NotFound(f"there are {len(names)} volumes: name the one to open")
        return names[0]


class GrantedExports:
    """The exports of a store that one client may open (`cdp.nbd.exports.Exports`)."""

    def __init__(self, exports: StoreExports, grants: Grants) -> None:
        self._exports = exports
        self._grants = grants

    async def names(self) -> list[tuple[str, str]]:
        return await self._exports.names(self._grants)

    async def open(self, name: str) -> OpenExport:
        if self._grants == Grants():
            raise Denied("your certificate is given no export here")
        return await self._exports.open(name, self._grants)


def _level(grants: Grants, entry: Entry) -> Level:
    return grants.level(entry.name, entry.id)
