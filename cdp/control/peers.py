"""Who may do what on the control socket: the kernel says who connected (SO_PEERCRED).

Invariants:
- Root, the user of the daemon, and the owners of the store and of the socket may do everything. Whom the socket's mode lets in besides may look, and change and hold nothing.
- Who connected is asked once for each connection, before a byte of it is read.
- Where the kernel does not say, nobody is anybody: such a connection may look.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import trio
from fastapi.responses import JSONResponse
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app

from cdp.control.wire import PREFIX, to_answer
from cdp.errors import Denied

LOOKING = frozenset({"GET", "HEAD"})
BODY_BYTES_MAX = 1 << 20
_CREDENTIALS = struct.Struct("3i")
"""struct ucred of socket(7): process, user, group."""


class Looking:
    """An ASGI application of which only what changes nothing is let through."""

    def __init__(self, app: Any, uid: int) -> None:
        self._app = app
        self._uid = uid

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not looks(scope["method"], scope["path"]):
            await _take_in(receive)
            body = to_answer(Denied(f"user {self._uid} may look at this store, and change nothing in it"))[1]
            await JSONResponse(body, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _take_in(receive: Any) -> None:
    """Reads a request to its end, within a bound: a client that still sends when it is answered may never see the answer."""
    taken = 0
    while taken < BODY_BYTES_MAX:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        taken += len(message["body"])


def looks(method: str, path: str) -> bool:
    """Whether a request changes nothing, and keeps nothing from being given up."""
    return method in LOOKING and not (path.startswith(f"{PREFIX}/volumes/") and path.endswith("/hold"))


def masters(store: Path, control: Path) -> frozenset[int]:
    """The users who may do everything."""
    return frozenset({0, os.geteuid(), store.stat().st_uid, control.stat().st_uid})


def user_of(connection: socket.socket | trio.socket.SocketType) -> int | None:
    """The user at the other end of a Unix socket, at the time of its connecting; None if the kernel does not say."""
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    uid: int = _CREDENTIALS.unpack(found)[1]
    return None if uid < 0 else uid


async def serve(
    app: Any,
    listener: socket.socket,
    allowed: Collection[int],
    settings: Config,
    stop: trio.Event,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves HTTP on a listening Unix socket, which is closed at the end, until `stop`; then what is under way has `settings.graceful_timeout` seconds.

    Hypercorn's own loop hides the connection from the application: this is that loop, with a look at who connects.
    """
    context = WorkerContext(None)

    async def handle(stream: trio.SocketStream) -> None:
        uid = user_of(stream.socket)
        shown = app if uid in allowed else Looking(app, -1 if uid is None else uid)
        wrapped = wrap_app(shown, settings.wsgi_max_body_size, "asgi")
        await TCPServer(wrapped, settings, context, ConnectionState(LifespanState()), stream)  # type: ignore[arg-type]

    async with trio.open_nursery() as connections:
        listening = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        accepting = partial(trio.serve_listeners, handle, listening, handler_nursery=connections)
        async with trio.open_nursery() as nursery:
            await nursery.start(accepting)
            task_status.started()
            await stop.wait()
            nursery.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + settings.graceful_timeout
