"""What can go wrong, by what the caller does next: one table for exception, exit code and NBD errno.

The kinds mirror the engine's (native/engine/src/error.rs) one to one; the native module raises these classes. A test walks the table.
"""

from __future__ import annotations

from typing import ClassVar


class CdpError(Exception):
    """A failure with a sentence that names what and why. `exit_code` is the command line's, `nbd_errno` the protocol's."""

    exit_code: ClassVar[int] = 1
    nbd_errno: ClassVar[int] = 5


class Invalid(CdpError):
    """The request can never succeed as it is."""

    exit_code = 2
    nbd_errno = 22


class Denied(Invalid):
    """It exists, but not for who asks."""


class NotFound(CdpError):
    """No such volume, instant, export or file."""

    exit_code = 3
    nbd_errno = 2


class Busy(CdpError):
    """Somebody else holds it: try again when they let go."""

    exit_code = 4
    nbd_errno = 16


class Closed(CdpError):
    """The volume or the daemon was closed under the caller."""

    exit_code = 5
    nbd_errno = 108


class NoSpace(CdpError):
    """No room for the write; room may come back."""

    exit_code = 6
    nbd_errno = 28


class Corrupt(CdpError):
    """Stored bytes are not what was written."""

    exit_code = 7
    nbd_errno = 5


class Io(CdpError):
    """The operating system said no."""

    exit_code = 8
    nbd_errno = 5


class Poisoned(CdpError):
    """A sync failed earlier: the volume accepts nothing more until it is opened anew."""

    exit_code = 9
    nbd_errno = 5


KINDS: tuple[type[CdpError], ...] = (Invalid, NotFound, Busy, Closed, NoSpace, Corrupt, Io, Poisoned)
