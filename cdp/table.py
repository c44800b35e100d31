"""The volumes that the daemon has open: each opened on its first use, kept open, and closed only when nobody uses it.

Invariants:
- A volume is open at most once in the process; two first users wait for the one opening.
- A volume that cannot be opened is an error for those who asked for it, and for nobody else; the next user tries again.
- `sessions` counts what NBD clients hold, `calls` what the control API is doing: a volume is closed only when both are zero.
- Counting never waits for an opening or a closing, so that a session's end never blocks the trio thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from cdp import files
from cdp.catalog import Catalog, Damaged, Entry
from cdp.errors import Busy, CdpError, Closed, NotFound
from cdp.store import Transient
from cdp.volume import OpenVolume
from cdp.writers import Writers

log = logging.getLogger("cdp.table")

CALLS_WAIT_SECONDS = 10.0
"""How long a deletion waits for control calls that look at the volume."""


@dataclass(slots=True)
class _Slot:
    opening: threading.Lock = field(default_factory=threading.Lock)
    volume: OpenVolume | None = None
    sessions: int = 0
    calls: int = 0
    retiring: bool = False
    failure: str | None = None
    """Why it could not be opened when it was last asked for."""


class _Closing(threading.Thread):
    """Closes the volume of a slot, if it has one. A thread that the end of the process does not wait for."""

    def __init__(self, slot: _Slot) -> None:
        super().__init__(name="closing", daemon=True)
        self._slot = slot
        self._name = ""
        self._error: CdpError | None = None
        self.start()

    def run(self) -> None:
        with self._slot.opening:
            volume, self._slot.volume = self._slot.volume, None
            if volume is None:
                return
            self._name = volume.entry.name
            try:
                volume.close()
            except CdpError as error:
                self._error = error

    def outcome(self) -> CdpError | None:
        """What went wrong so far."""
        if self.is_alive():
            return Busy(f"{self._name or 'a volume'} is not closed yet; its next opening recovers it")
        return self._error


class Table:
    """An `Opener` (cdp/store.py) for a process that lives long. Every method may be called from any thread."""

    def __init__(self, catalog: Catalog, disconnect: Callable[[int], None] = lambda _session: None) -> None:
        """`disconnect` ends a session of an NBD client and returns when it has ended."""
        self._catalog = catalog
        self.writers = Writers(disconnect)
        self._transient = Transient(catalog)
        self._slots: dict[str, _Slot] = {}
        self._counts = threading.Condition()
        self._closed = False

    def acquire(self, entry: Entry) -> OpenVolume:
        """The open volume, for a session, until `release`."""
        return self._hold(entry, "sessions")

    def release(self, volume_id: str) -> None:
        """Ends what `acquire` began. Does not wait."""
        self._let_go(volume_id, "sessions")

    @contextmanager
    def looking(self, entry: Entry) -> Iterator[OpenVolume]:
        if entry.deleted:
            with self._transient.looking(entry) as volume:
                yield volume
            return
        try:
            held = self._hold(entry, "calls")
        except CdpError:
            # The writer could not open it, for its origin or its journal: what can be seen without, is.
            with self._transient.looking(entry) as volume:
                yield volume
            return
        try:
            yield held
        finally:
            self._let_go(entry.id, "calls")

    @contextmanager
    def writing(self, entry: Entry) -> Iterator[OpenVolume]:
        volume = self._hold(entry, "calls")
        try:
            yield volume
        finally:
            self._let_go(entry.id, "calls")

    @contextmanager
    def closed(self, entry: Entry | Damaged) -> Iterator[None]:
        slot = self._retire(entry)
        try:
            with slot.opening:
                if slot.volume is not None:
                    volume, slot.volume = slot.volume, None
                    volume.close()
                name = entry.name if isinstance(entry, Entry) else entry.id
                with files.locked(
                    entry.folder / "lock", wait=False, busy=f"{name} is open in another process", create=True
                ):
                    yield
        finally:
            with self._counts:
                slot.retiring = False

    def quiet(self, entry: Entry, *, force: bool) -> AbstractContextManager[int]:
        return self.writers.barred(entry.id, force=force)

    def renamed(self, entry: Entry) -> None:
        with self._counts:
            slot = self._slots.get(entry.id)
            if slot is not None and slot.volume is not None:
                slot.volume.renamed(entry)

    def uses(self, entry: Entry) -> tuple[bool, int]:
        with self._counts:
            slot = self._slots.get(entry.id)
            return (False, 0) if slot is None else (slot.volume is not None, slot.sessions)

    def failure(self, volume_id: str) -> str | None:
        """Why the volume could not be opened when it was last asked for; None: it could, or nobody asked."""
        with self._counts:
            slot = self._slots.get(volume_id)
            return None if slot is None else slot.failure

    def open_count(self) -> int:
        """How many volumes are open."""
        with self._counts:
            return sum(slot.volume is not None for slot in self._slots.values())

    def open_ids(self) -> list[str]:
        """Which volumes are open."""
        with self._counts:
            return [volume_id for volume_id, slot in self._slots.items() if slot.volume is not None]

    @contextmanager
    def borrowed(self, volume_id: str) -> Iterator[OpenVolume | None]:
        """The volume if it is open, for a `with` block; it is not closed meanwhile. Opens nothing, and waits for nobody."""
        with self._counts:
            slot = self._slots.get(volume_id)
            volume = None if slot is None or slot.retiring else slot.volume
            if slot is not None and volume is not None:
                slot.calls += 1
        try:
            yield volume
        finally:
            if volume is not None:
                self._let_go(volume_id, "calls")

    def close(self, seconds: float | None = None) -> list[CdpError]:
        """Closes every volume, all at once and whatever the others met; what went wrong. From here on nothing is opened: Closed.

        `seconds`: one that takes longer is left as a crash would leave it, and named. None: no bound.
        """
        with self._counts:
            self._closed = True
        closings = [_Closing(slot) for slot in list(self._slots.values())]
        deadline = None if seconds is None else time.monotonic() + seconds
        for closing in closings:
            closing.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return [error for closing in closings if (error := closing.outcome()) is not None]

    def _hold(self, entry: Entry, count: Literal["sessions", "calls"]) -> OpenVolume:
        with self._counts:
            slot = self._slots.setdefault(entry.id, _Slot())
            if self._closed:
                raise Closed("the daemon is stopping")
            if slot.retiring:
                raise Busy(f"{entry.name} is being deleted")
            setattr(slot, count, getattr(slot, count) + 1)
        try:
            with slot.opening:
                if slot.volume is None:
                    if self._closed:
                        raise Closed("the daemon is stopping")
                    slot.volume = self._opened(slot, entry)
                return slot.volume
        except BaseException:
            self._let_go(entry.id, count)
            raise

    def _opened(self, slot: _Slot, entry: Entry) -> OpenVolume:
        try:
            volume = self._open(entry)
        except CdpError as error:
            self._failed(slot, entry, None if isinstance(error, NotFound) else str(error))
            raise
        slot.failure = None
        about = {"volume": entry.name}
        log.info("%s is open: latest lsn:%d", entry.name, volume.native.latest().lsn, extra=about)
        for fault in volume.native.faults():
            log.warning("%s: %s", entry.name, fault, extra=about)
        return volume

    def _failed(self, slot: _Slot, entry: Entry, failure: str | None) -> None:
        # Each new connection tries again: the same cause is told once.
        if failure is not None and failure != slot.failure:
            log.error("%s cannot be opened: %s", entry.name, failure, extra={"volume": entry.name})
        slot.failure = failure

    def _open(self, entry: Entry) -> OpenVolume:
        # The entry may be older than a deletion by another process: the catalog says what counts.
        current = self._catalog.get(entry.id)
        if current.deleted:
            raise NotFound(f"{entry.name} was deleted")
        volume = OpenVolume(self._catalog.heal(current))
        # A crash between a resize, or a rollback behind one, and the note of it.
        with suppress(CdpError):
            volume.renamed(self._catalog.note_size(current, volume.native.size))
        return volume

    def _let_go(self, volume_id: str, count: Literal["sessions", "calls"]) -> None:
        with self._counts:
            slot = self._slots[volume_id]
            setattr(slot, count, getattr(slot, count) - 1)
            self._counts.notify_all()

    def _retire(self, entry: Entry | Damaged) -> _Slot:
        with self._counts:
            slot = self._slots.setdefault(entry.id, _Slot())
            name = entry.name if isinstance(entry, Entry) else entry.id
            if slot.retiring:
                raise Busy(f"{name} is being deleted")
            if slot.sessions:
                raise Busy(
                    f"{name} is in use by {slot.sessions} session{'s' if slot.sessions > 1 else ''} of NBD clients"
                )
            slot.retiring = True
            if not self._counts.wait_for(lambda: not slot.calls, CALLS_WAIT_SECONDS):
                slot.retiring = False
                raise Busy(f"{name} is in use by another command")
            return slot
