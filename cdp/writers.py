"""NBD clients that write to a volume: who they are, and how they are kept out for a moment.

Invariants:
- A session that may write is known here before its first request is read, until its export was released.
- While a volume is barred nobody new comes in, and who was there has ended: the requests that were admitted are in the journal.
- No lock is held while a session ends: its end is told by a thread that may wait for us.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cdp.errors import Busy


class Writers:
    """Sessions by the ID of their volume. `disconnect` ends a session and returns when it has ended."""

    def __init__(self, disconnect: Callable[[int], None]) -> None:
        self._disconnect = disconnect
        self._lock = threading.Lock()
        self._sessions: dict[str, set[int]] = {}
        self._barred: set[str] = set()

    def enter(self, volume_id: str, attach: Callable[[], int]) -> int:
        """Begins a session by calling `attach`; its number. Busy while the volume is barred."""
        with self._lock:
            if volume_id in self._barred:
                raise Busy("the volume takes no connections at this moment: connect again")
            session = attach()
            self._sessions.setdefault(volume_id, set()).add(session)
            return session

    def left(self, volume_id: str, session: int) -> None:
        """The session is over."""
        with self._lock:
            sessions = self._sessions.get(volume_id, set())
            sessions.discard(session)
            if not sessions:
                self._sessions.pop(volume_id, None)

    def count(self, volume_id: str) -> int:
        """How many there are."""
        with self._lock:
            return len(self._sessions.get(volume_id, ()))

    @contextmanager
    def barred(self, volume_id: str, *, force: bool) -> Iterator[int]:
        """Nobody writes meanwhile; how many sessions were ended for it. Busy if there are some and `force` does not say to end them."""
        with self._lock:
            if volume_id in self._barred:
                raise Busy("the volume is being rolled back by another command")
            sessions = sorted(self._sessions.get(volume_id, ()))
            if sessions and not force:
                many = f"{len(sessions)} writable connections are" if len(sessions) > 1 else "a writable connection is"
                raise Busy(f"{many} open: detach the device or stop the client first, or let --force end it")
            self._barred.add(volume_id)
        try:
            for session in sessions:
                self._disconnect(session)
            yield len(sessions)
        finally:
            with self._lock:
                self._barred.discard(volume_id)
