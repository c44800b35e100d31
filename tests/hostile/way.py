"""How an attacker reaches a daemon: a socket, TLS on it, the transmission phase; with plain sockets, so that any byte can be wrong."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.unit.nbd_dialogue import ACK, EXPORT_NAME, GREETING, STARTTLS, client_flags, option

REPLY_BYTES = 20
EXPORT_BYTES = 10
ADDRESS = "127.0.0.2"
"""Another than that of the clients beside: on TCP an address is what tells peers apart."""
RECEIVE_BYTES = 4096
"""What an attacker's own socket takes in: what it does not read waits at the daemon, as it does far away."""


class Refused(Exception):
    """The daemon hung up, or did not let it in."""


@dataclass(frozen=True)
class Way:
    """`path` of a Unix socket, else `port` on loopback; `credentials`: the folder of a client's certificate, where TLS is to be spoken."""

    path: str = ""
    port: int = 0
    credentials: Path | None = None
    export: str = "disk"

    async def connect(self) -> trio.SocketStream:
        """Connected, nothing read. Refused if the daemon does not take it."""
        made = trio.socket.socket(socket.AF_UNIX if self.path else socket.AF_INET)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            if self.path:
                await made.connect(self.path)
            else:
                await made.bind((ADDRESS, 0))
                await made.connect(("127.0.0.1", self.port))
        except OSError as error:
            made.close()
            raise Refused(str(error)) from error
        except BaseException:
            made.close()
            raise
        return trio.SocketStream(made)

    async def greet(self) -> trio.SocketStream:
        """Where options are sent."""
        stream = await self.connect()
        async with _closed_after_failure(stream):
            await read(stream, len(GREETING))
            await stream.send_all(client_flags())
        return stream

    async def start_tls(self) -> trio.SocketStream:
        """Where the TLS handshake begins."""
        stream = await self.greet()
        async with _closed_after_failure(stream):
            await stream.send_all(option(STARTTLS))
            answer = await read(stream, REPLY_BYTES)
            if struct.unpack(">QIII", answer)[2] != ACK:
                raise Refused("no TLS here")
        return stream

    async def enter(self) -> trio.abc.Stream:
        """The transmission phase of the export."""
        plain = await (self.greet() if self.credentials is None else self.start_tls())
        async with _closed_after_failure(plain):
            stream: trio.abc.Stream = plain
            if self.credentials is not None:
                secure = trio.SSLStream(plain, self._context(), server_hostname="localhost")
                await secure.do_handshake()
                stream = secure
            await stream.send_all(option(EXPORT_NAME, self.export.encode()))
            await read(stream, EXPORT_BYTES)
        return stream

    def client_hello(self) -> bytes:
        """The first message of a TLS handshake."""
        assert self.credentials is not None
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self._context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return outgoing.read()

    def _context(self) -> ssl.SSLContext:
        assert self.credentials is not None
        if self.credentials not in _contexts:
            made = ssl.create_default_context(cafile=str(self.credentials / "ca-cert.pem"))
            made.load_cert_chain(self.credentials / "client-cert.pem", self.credentials / "client-key.pem")
            _contexts[self.credentials] = made
        return _contexts[self.credentials]


_contexts: dict[Path, ssl.SSLContext] = {}


@asynccontextmanager
async def _closed_after_failure(stream: trio.abc.AsyncResource) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def read(stream: trio.abc.Stream, count: int) -> bytes:
    """Refused if it ends before."""
    got = b""
    while len(got) < count:
        piece = await stream.receive_some(count - len(got))
        if not piece:
            raise Refused(f"hung up after {len(got)} of {count} bytes")
        got += piece
    return got
