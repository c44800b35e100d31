"""The kernel's nbd driver over generic netlink: its family, which pyroute2 does not have (cdp/attach/netlink_message.py).

Invariant:
- Each call has a socket of its own and is one request: nothing is left half said.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from cdp.errors import Busy, CdpError, Invalid, Io, NoSpace, NotFound

FAMILY, VERSION = "nbd", 1
CONNECT, DISCONNECT, RECONFIGURE = 1, 2, 3
"""linux/nbd-netlink.h. That a connection died (4) is told by the end of our session, and what is connected (5) by /sys."""

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA = 1 << 0, 1 << 1, 1 << 2, 1 << 3
SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN = 1 << 5, 1 << 6, 1 << 8
"""Transmission flags of the NBD protocol, as NBD_ATTR_SERVER_FLAGS takes them."""

_KINDS: dict[int, type[CdpError]] = {
    errno.EBUSY: Busy,
    errno.EINVAL: Invalid,
    errno.ENOENT: NotFound,
    errno.ENODEV: NotFound,
    errno.ENOSPC: NoSpace,
}


def connect(
    *,
    size: int,
    block_size: int,
    flags: int,
    sockets: Sequence[int],
    request_seconds: int,
    dead_seconds: int,
    backend: str,
) -> int:
    """Makes a device of connected sockets, in the transmission phase; its index. The kernel keeps the sockets: the caller closes its own.

    `request_seconds`: an older request is sent again, on another connection. `dead_seconds`: how long requests wait when no connection is left.
    """
    answers = _ask(
        CONNECT,
        [
            ("NBD_ATTR_SIZE_BYTES", size),
            ("NBD_ATTR_BLOCK_SIZE_BYTES", block_size),
            ("NBD_ATTR_TIMEOUT", request_seconds),
            ("NBD_ATTR_SERVER_FLAGS", flags),
            ("NBD_ATTR_SOCKETS", _sockets(sockets)),
            ("NBD_ATTR_DEAD_CONN_TIMEOUT", dead_seconds),
            ("NBD_ATTR_BACKEND_IDENTIFIER", backend),
        ],
    )
    for answer in answers:
        index = answer.get_attr("NBD_ATTR_INDEX")
        if index is not None:
            return int(index)
    raise Io("the kernel made an nbd device and did not say which")


def reconfigure(index: int, *, backend: str, sockets: Sequence[int]) -> None:
    """Gives a device fresh sockets in the place of dead ones; those beyond are not taken. Invalid if its back end is not `backend`."""
    _ask(
        RECONFIGURE,
        [
            ("NBD_ATTR_INDEX", index),
            ("NBD_ATTR_SOCKETS", _sockets(sockets)),
            ("NBD_ATTR_BACKEND_IDENTIFIER", backend),
        ],
    )


def resize(index: int, *, backend: str, size: int) -> None:
    """Tells a device its new size, in bytes. Invalid if its back end is not `backend`."""
    told = [("NBD_ATTR_INDEX", index), ("NBD_ATTR_SIZE_BYTES", size), ("NBD_ATTR_BACKEND_IDENTIFIER", backend)]
    _ask(RECONFIGURE, told)


def disconnect(index: int) -> None:
    """Ends a device."""
    _ask(DISCONNECT, [("NBD_ATTR_INDEX", index)])


def _sockets(descriptors: Sequence[int]) -> dict[str, Any]:
    return {"attrs": [("NBD_SOCK_ITEM", {"attrs": [("NBD_SOCK_FD", one)]}) for one in descriptors]}


def _ask(command: int, attributes: Sequence[tuple[str, Any]]) -> list[Any]:
    # Slow to load, and who makes no nbd device needs none of it.
    from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST  # noqa: PLC0415
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415
    from pyroute2.netlink.generic import GenericNetlinkSocket  # noqa: PLC0415

    from cdp.attach.netlink_message import NbdMessage  # noqa: PLC0415

    message = NbdMessage()
    message["cmd"] = command
    message["version"] = VERSION
    message["attrs"] = list(attributes)
    try:
        with GenericNetlinkSocket() as netlink:
            netlink.bind(FAMILY, NbdMessage)
            flags = NLM_F_REQUEST | NLM_F_ACK
            return list(netlink.nlm_request(message, msg_type=netlink.prid, msg_flags=flags))
    except NetlinkError as error:
        raise _KINDS.get(error.code, Io)(f"the kernel's nbd driver: {error}") from error
    except OSError as error:
        raise Io(f"netlink: {error}") from error
