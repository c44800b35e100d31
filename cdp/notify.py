"""What the daemon tells the service manager that started it (sd_notify(3)): datagrams to the socket in NOTIFY_SOCKET.

Invariants:
- Without a service manager nothing happens, and a message that does not arrive is no reason to do anything else.
- The address is taken from the environment once: what the daemon starts does not speak for it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress


class Notifier:
    """Takes the service manager's variables out of `environment`."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        # An abstract socket is written with @ in place of the NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = _watchdog(environment)

    @property
    def watchdog_seconds(self) -> float | None:
        """How often `alive` has to be told at least; None: nobody watches."""
        return self._watchdog if self._address else None

    def ready(self, status: str) -> None:
        """All sockets accept."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def alive(self, status: str) -> None:
        """For the watchdog, and for people."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self, seconds: float) -> None:
        """The orderly end has begun, and takes at most so long from now on."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}\nSTATUS=stopping")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
            # Whoever does not listen must not hold up the volumes.
            speaker.setblocking(False)
            speaker.connect(self._address)
            speaker.send(message.encode())


def _watchdog(environment: MutableMapping[str, str]) -> float | None:
    microseconds, process = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6
