"""A block device of the kernel's own nbd driver, straight over the daemon's native sessions.

    kernel file system → nbd → socket pair → a session of the daemon

Invariants:
- The kernel has one end of each socket pair, the daemon's session the other: nothing is negotiated, and no process stands between.
- A device is told by its back-end identifier: one that has another is not ours, and is not touched.
- When connections die, requests wait in the kernel up to the time-out; whoever is the daemon then gives it fresh ones. A scratch view gets
  none from a later daemon: it would be another view.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from cdp.attach import netlink, place
from cdp.attach.notes import Attachment
from cdp.errors import CdpError, Closed, Io

log = logging.getLogger("cdp.attach")

CONNECTIONS = 4
REQUEST_SECONDS = 15
"""After which the kernel sends a request again, on another connection: what was under way when the daemon was killed goes on that soon at the earliest."""
AGAIN_SECONDS = 1.0
"""Between two attempts to replace a connection."""
_SYS = Path("/sys/block")

Link = Callable[[str, Callable[[], None]], socket.socket]
"""Opens an export by its name and begins a session on one end of a socket pair; the other end. What it is given is called when the session has ended."""


class KernelNbd:
    """The driver `nbd`. `link` None: there is no daemon, and devices can only be taken away."""

    name = "nbd"

    def __init__(self, store: Path, link: Link | None) -> None:
        self._store = store
        self._link = link
        self._ended = threading.Condition()
        self._leaving = threading.Event()
        self._lost: dict[str, int] = {}
        """Connections that ended, by the ID of their attachment; whoever is not in it is not watched any more."""

    def missing(self) -> str | None:
        if not Path("/sys/module/nbd").exists():
            with suppress(OSError):
                subprocess.run(["modprobe", "nbd"], capture_output=True, check=False)
        return None if Path("/sys/module/nbd").exists() else "this kernel has no nbd driver (modprobe nbd)"

    def make(self, one: Attachment, block_size: int, size: int) -> Attachment:
        backend = place.backend(self._store, one.id, one.kind)
        self._lost[one.id] = 0
        try:
            with ExitStack() as ours:
                index = netlink.connect(
                    size=size,
                    block_size=block_size,
                    flags=_flags(one),
                    sockets=[self._socket(one, ours) for _ in range(CONNECTIONS)],
                    request_seconds=REQUEST_SECONDS,
                    dead_seconds=one.timeout_seconds,
                    backend=backend,
                )
        except BaseException:
            del self._lost[one.id]
            raise
        return replace(one, device=f"/dev/nbd{index}")

    def end(self, one: Attachment) -> None:
        with self._ended:
            self._lost.pop(one.id, None)
            self._ended.notify_all()
        if self.there(one):
            netlink.disconnect(_index(one))

    def leave(self) -> None:
        """The daemon ends: connections that end are not replaced any more."""
        with self._ended:
            self._lost.clear()
            self._leaving.set()
            self._ended.notify_all()

    def cut(self, one: Attachment) -> None:
        """Its connections are gone; the kernel answers with errors after the time-out."""

    def works(self, one: Attachment) -> bool:
        return self.there(one) and (self._link is None or one.id in self._lost or one.kind != "scratch")

    def there(self, one: Attachment) -> bool:
        # `pid` is there while the device has a back end.
        at = _SYS / Path(one.device).name
        with suppress(OSError):
            told = (at / "backend").read_text().strip()
            return (at / "pid").exists() and told == place.backend(self._store, one.id, one.kind)
        return False

    def resume(self, one: Attachment) -> None:
        """Lets `wait` connect it."""
        # All of them died with the daemon that had them.
        self._lost[one.id] = CONNECTIONS

    def wait(self, one: Attachment) -> None:
        """Replaces connections that end, until the device is taken away."""
        while True:
            with self._ended:
                self._ended.wait_for(lambda: self._lost.get(one.id) != 0)
                dead = self._lost.get(one.id)
                if dead is None:
                    return
                self._lost[one.id] = 0
            try:
                self._reconnect(one, dead)
                log.info("%s, which shows %s, got %d new connections", one.device, one.shown, dead)
            except CdpError as error:
                log.error("%s, which shows %s, gets no connection: %s", one.device, one.shown, error)
                self._ended_one(one.id, dead)
            # One that ends at once is not begun again and again.
            self._leaving.wait(AGAIN_SECONDS)

    def resized(self, one: Attachment, size: int) -> None:
        netlink.resize(_index(one), backend=place.backend(self._store, one.id, one.kind), size=size)

    def _reconnect(self, one: Attachment, count: int) -> None:
        with ExitStack() as ours:
            fresh = [self._socket(one, ours) for _ in range(count)]
            backend = place.backend(self._store, one.id, one.kind)
            netlink.reconfigure(_index(one), backend=backend, sockets=fresh)

    def _socket(self, one: Attachment, ours: ExitStack) -> int:
        if self._link is None:
            raise Closed("there is no daemon to connect to")
        return ours.enter_context(self._link(one.export, lambda: self._ended_one(one.id, 1))).fileno()

    def _ended_one(self, attachment_id: str, count: int) -> None:
        with self._ended:
            if attachment_id in self._lost:
                self._lost[attachment_id] += count
                self._ended.notify_all()


def _flags(one: Attachment) -> int:
    flags = netlink.HAS_FLAGS | netlink.SEND_FLUSH | netlink.CAN_MULTI_CONN
    if one.read_only:
        return flags | netlink.READ_ONLY
    return flags | netlink.SEND_FUA | netlink.SEND_TRIM | netlink.SEND_WRITE_ZEROES


def _index(one: Attachment) -> int:
    name = Path(one.device).name
    if not name.startswith("nbd") or not name[3:].isdecimal():
        raise Io(f"{one.device} is no nbd device")
    return int(name[3:])
