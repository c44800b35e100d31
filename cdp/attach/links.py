"""Sessions of the daemon that no client negotiated: the other end of an nbd device's sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdp import _native
    from cdp.exports import StoreExports


class Links:
    """Opens exports and begins sessions on socket pairs. May be called from any thread."""

    def __init__(self, exports: StoreExports, native: _native.Server) -> None:
        self._exports = exports
        self._native = native

    def connect(self, name: str, ended: Callable[[], None]) -> socket.socket:
        """The far end of a session on the export `name`; `ended` is called, from any thread, when the session has."""
        export = self._exports.open_now(name)

        def on_end(_session: int, _reason: str) -> None:
            export.release()
            ended()

        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        begun = False

        def attach() -> int:
            nonlocal begun
            session = self._native.attach(
                near.detach(),
                b"",
                export.handle,
                structured=False,
                extended=False,
                contexts=(),
                on_end=on_end,
                account=export.account,
            )
            begun = True
            return session

        try:
            export.enter_now(attach)
        except BaseException:
            far.close()
            if not begun:
                near.close()
                export.release()
            raise
        return far
