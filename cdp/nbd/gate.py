"""Who is let in: bounds on handshakes and sessions, in total and for one peer, and what becomes of the others.

Invariants:
- A newcomer is always taken in: where all handshakes are taken, the peer that has most of them loses its oldest one that waits for its client. So who is
  slow, or far away, is not pushed out by a crowd of others.
- Accepting ends for nobody's sake: without descriptors or memory it waits, and goes on.
- The last descriptors are the volumes': no client gets one of them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
import struct
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Protocol

import trio

from cdp.errors import Busy
from cdp.logs import Seldom

log = logging.getLogger("cdp.nbd")

RESERVE_MAX = 4096
"""Descriptors that no client gets, where that is not more than half of all: some 256 a volume, with room to grow."""
PAUSE_SECONDS = 0.1
"""After an accept that failed for want of something."""
_LACKING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_CREDENTIALS = struct.Struct("3i")
"""struct ucred of socket(7): process, user, group."""
_IPV6_SITE_BYTES = 8
"""One site has that much of an IPv6 address in common, and the rest at its choice."""


def peer_of(stream: trio.SocketStream) -> Hashable:
    """What clients of one peer have in common: an address, or a process on this machine. None for one that is gone."""
    try:
        if stream.socket.family == socket.AF_UNIX:
            raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return _CREDENTIALS.unpack(raw)[:2]
        host = stream.socket.getpeername()[0]
        if stream.socket.family == socket.AF_INET6:
            return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:_IPV6_SITE_BYTES]
    except OSError:
        return None
    else:
        return str(host)


class Waiting(Protocol):
    """A handshake under way."""

    peer: Hashable
    waits_for_client: bool
    scope: trio.CancelScope


class Gate:
    """Counts the handshakes under way and keeps them under the bound."""

    def __init__(self, handshakes_max: int) -> None:
        self._slots = trio.Semaphore(handshakes_max)
        self._under_way: dict[Waiting, None] = {}

    async def admit(self) -> None:
        """Takes a slot for a newcomer, at the cost of another handshake if there is none left."""
        if self._slots.value == 0:
            self._displace()
        await self._slots.acquire()

    def _displace(self) -> None:
        waiting = [one for one in self._under_way if one.waits_for_client]
        if waiting:
            # Of several that have as many, the one that came first.
            most = Counter(one.peer for one in waiting).most_common(1)[0][0]
            oldest = next(one for one in waiting if one.peer == most)
            del self._under_way[oldest]
            oldest.scope.cancel()

    @contextlib.contextmanager
    def passing(self, connection: Waiting) -> Iterator[None]:
        """The connection's time under the gate; its slot was taken by `admit`."""
        self._under_way[connection] = None
        try:
            yield
        finally:
            self._under_way.pop(connection, None)
            self._slots.release()


class Sessions:
    """How many sessions each peer has, and what they may take."""

    def __init__(self, per_peer: int | None) -> None:
        """`per_peer` None: clients that are trusted may have as many as they like, and every descriptor."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.descriptors_max = limit if per_peer is None else limit - min(RESERVE_MAX, limit // 2)
        """Numbers of descriptors are below this."""
        self._per_peer = per_peer
        self._counts: Counter[Hashable] = Counter()

    def check(self, peer: Hashable) -> None:
        """Busy where it has as many as it may."""
        if self._per_peer is not None and self._counts[peer] >= self._per_peer:
            raise Busy(f"you have {self._per_peer} sessions, the most that one client may")

    def duplicate(self, connection: trio.socket.SocketType) -> int:
        """A descriptor of its own for a session. Busy where it would be one that clients may not have."""
        made = os.dup(connection.fileno())
        if made < self.descriptors_max:
            return made
        os.close(made)
        raise Busy(f"{self.descriptors_max} descriptors are in use")

    def began(self, peer: Hashable) -> None:
        self._counts[peer] += 1

    def ended(self, peer: Hashable) -> None:
        self._counts[peer] -= 1
        if not self._counts[peer]:
            del self._counts[peer]


class GatedListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts a connection, then waits for its slot: at most one per listener is accepted beyond the bound."""

    def __init__(self, listener: trio.SocketListener, gate: Gate, sessions: Sessions, told: Seldom) -> None:
        self._listener = listener
        self._gate = gate
        self._told = told
        self._descriptors_max = sessions.descriptors_max

    async def accept(self) -> trio.SocketStream:
        while True:
            stream = await self._accept()
            if stream.socket.fileno() < self._descriptors_max:
                break
            self._told.warning("turned a client away: %d descriptors are in use", self._descriptors_max)
            await trio.aclose_forcefully(stream)
        try:
            await self._gate.admit()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def _accept(self) -> trio.SocketStream:
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno not in _LACKING:
                    raise
                self._told.warning("no client can be let in at this moment: %s", os.strerror(error.errno or 0))
                await trio.sleep(PAUSE_SECONDS)

    async def aclose(self) -> None:
        await self._listener.aclose()
