"""TLS on a connection that is negotiated: a stream over the native connection, and what the server must know to start one.

Invariants:
- Encrypting and decrypting are native; after the negotiation the native session has the connection, and Python no part in it.
- A handshake that fails is answered with TLS's own alert, where the client still listens, and ends the connection.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import trio

from cdp.errors import CdpError
from cdp.nbd.exports import Exports
from cdp.nbd.states import TlsOffer

if TYPE_CHECKING:
    from cdp import _native

RECEIVE_BYTES = 64 << 10
ALERT_SECONDS = 1.0
"""For telling a client why it is refused."""


class TurnedAway(Exception):
    """The client is refused for good; says why."""


class Peer(Protocol):
    """Who a client is, as its certificate says."""

    @property
    def name(self) -> str:
        """For the log."""

    @property
    def exports(self) -> Exports:
        """What it may see and open."""


class Security(Protocol):
    """What a server does about TLS. Methods may be called by many connections at once."""

    def offer(self, *, local: bool) -> TlsOffer:
        """To a client on this machine's Unix socket (`local`), or on TCP."""

    async def connection(self) -> _native.TlsConnection:
        """A fresh connection with the credentials of this moment. May wait."""

    async def peer(self, connection: _native.TlsConnection) -> Peer:
        """Who the client is; its handshake is done. May wait. Invalid if its certificate cannot be read."""


class Plain:
    """The stream of a connection without TLS."""

    tls: _native.TlsConnection | None = None

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive_some(self) -> bytes:
        """b"" when the client sends no more. TurnedAway if it is refused."""
        return bytes(await self.stream.receive_some(RECEIVE_BYTES))

    async def finish(self) -> None:
        """Says that no more will be sent, where there is a way to say it."""

    async def last_words(self) -> None:
        """After TurnedAway: tells the client why, where there is a way to say it."""


class Secure(Plain):
    """The stream of a connection with TLS, on the socket of one without."""

    def __init__(self, stream: trio.SocketStream, tls: _native.TlsConnection) -> None:
        super().__init__(stream)
        self.tls: _native.TlsConnection = tls
        self._plain = b""

    async def shake_hands(self, leftover: bytes) -> None:
        """The TLS handshake. `leftover`: what was received of it already. TurnedAway with what is wrong."""
        data = leftover
        while True:
            if data:
                await self._take(data)
            if not self.tls.handshaking:
                return
            data = await self.stream.receive_some(RECEIVE_BYTES)
            if not data:
                raise TurnedAway("it hung up during the TLS handshake")

    async def send_all(self, data: bytes) -> None:
        self.tls.send(data)
        await self._send_output()

    async def receive_some(self) -> bytes:
        while not self._plain and not self.tls.at_end:
            data = await self.stream.receive_some(RECEIVE_BYTES)
            if not data:
                break
            await self._take(data)
        plain, self._plain = self._plain, b""
        return plain

    async def finish(self) -> None:
        self.tls.close()
        await self._send_output()

    async def last_words(self) -> None:
        # A client that is gone, or reads nothing, learns nothing.
        with trio.move_on_after(ALERT_SECONDS), suppress(trio.BrokenResourceError):
            await self._send_output()

    async def _take(self, data: bytes) -> None:
        """Decrypts, and sends what the protocol itself has to say. TurnedAway if the client breaks it, or is refused."""
        try:
            # In a handshake signing and checking certificates takes a millisecond or more, which only other handshakes wait for (front.py).
            self._plain += self.tls.receive(data)
        except CdpError as error:
            raise TurnedAway(str(error)) from error
        await self._send_output()

    async def _send_output(self) -> None:
        if output := self.tls.output():
            await self.stream.send_all(output)
