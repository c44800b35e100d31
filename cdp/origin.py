"""The disk under a volume: only read, opened exclusively, and recognised.

Invariants:
- An origin is used only if it is what the volume's description says: same identity, size and change time, else Invalid until
  `cdp accept-origin` records what it is now.
- While an origin is open nobody who respects the kernel's claims and locks can write to it: the writer of a volume holds a block device with O_EXCL (and with its
  clones: in one process the claim is shared), and everybody a file
  under a read lock of its open file description (which QEMU respects), an NBD export is at its server's mercy.
- Bytes are read by native code from the path; only an NBD export is read through here, by `NbdOrigin`.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdp import files
from cdp.description import Origin
from cdp.errors import Busy, Invalid, Io

if TYPE_CHECKING:
    from cdp import _native

NBD_SCHEMES = ("nbd://", "nbd+unix://", "nbds://", "nbds+unix://")
_READ_MAX = 16 << 20
"""Bytes an NBD request asks for: within what every server takes (32 MiB)."""


def is_nbd_uri(text: str) -> bool:
    """Whether `text` is an NBD URI rather than a path."""
    return text.startswith(NBD_SCHEMES)


class _Claims:
    """Block devices that this process holds with O_EXCL: a volume and its clones share the claim, which the kernel gives once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[int, int]] = {}

    def take(self, path: str) -> int:
        """A descriptor of the device, under the claim until `let_go`. OSError if somebody else has it."""
        device = os.stat(path).st_rdev
        with self._lock:
            held, users = self._held.get(device, (-1, 0))
            if not users:
                held = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_EXCL)
            self._held[device] = (held, users + 1)
            # Of the same opening: the claim ends with the last one.
            return os.dup(held)

    def let_go(self, descriptor: int) -> None:
        """Closes what `take` gave."""
        device = os.fstat(descriptor).st_rdev
        os.close(descriptor)
        with self._lock:
            held, users = self._held[device]
            if users > 1:
                self._held[device] = (held, users - 1)
                return
            del self._held[device]
            os.close(held)


_claims = _Claims()


class OpenOrigin:
    """An origin in use: `path` or `reader` is what the native volume takes. Close it after the volume."""

    def __init__(
        self, found: Origin, descriptor: int | None, reader: NbdOrigin | None, *, claimed: bool = False
    ) -> None:
        self.found = found
        self._claimed = claimed
        self._descriptor = descriptor
        self.reader: _native.OriginReader | None = reader
        self._nbd = reader

    @property
    def path(self) -> str | None:
        return None if self._descriptor is None else self.found.path

    def close(self) -> None:
        """Gives the origin back. Idempotent."""
        if self._descriptor is not None:
            (_claims.let_go if self._claimed else os.close)(self._descriptor)
            self._descriptor = None
        if self._nbd is not None:
            self._nbd.close()


def is_path(text: str) -> bool:
    """Whether a text can be a path or a URI, and can be recorded: UTF-8 without a NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def open_origin(text: str, *, claim: bool = True) -> OpenOrigin:
    """Opens a file, a block device or an NBD URI as it is now. NotFound, Busy (somebody writes to it), Invalid, Io.

    `claim`: False for a reader beside the one who holds the claim: a block device can be claimed only once.
    """
    if not is_path(text):
        raise Invalid(f"the origin {text[:200]!r} is no path")
    if is_nbd_uri(text):
        reader = NbdOrigin(text)
        return OpenOrigin(Origin("nbd", text, reader.size(), text, 0), None, reader)
    path = os.path.realpath(text)
    with files.os_errors(f"opening the origin {path}"):
        kind = os.stat(path).st_mode
        if not stat.S_ISBLK(kind) and not stat.S_ISREG(kind):
            raise Invalid(f"the origin {path} is neither a file nor a block device")
        is_device = stat.S_ISBLK(kind)
        claimed = is_device and claim
        descriptor = _claims.take(path) if claimed else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not is_device:
                _lock_for_reading(descriptor, path)
            return OpenOrigin(_describe(descriptor, path), descriptor, None, claimed=claimed)
        except BaseException:
            (_claims.let_go if claimed else os.close)(descriptor)
            raise


def open_accepted(accepted: Origin, volume: str, *, claim: bool) -> OpenOrigin:
    """Opens the origin of `volume`; Invalid if it is no longer what was accepted."""
    opened = open_origin(accepted.path, claim=claim)
    if opened.found != accepted:
        opened.close()
        changes = ", ".join(_differences(accepted, opened.found))
        raise Invalid(
            f"the origin {accepted.path} of {volume} changed ({changes}): "
            f"if it is still the right one, cdp accept-origin {volume} takes it as it is now"
        )
    return opened


class NbdOrigin:
    """Reads an export of any NBD server through libnbd. One connection, made anew once when it was lost."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._handle: Any = self._connect()
        self._size: int = self._handle.get_size()

    def size(self) -> int:
        """In bytes, as when it was opened."""
        return self._size

    def pread(self, length: int, offset: int) -> bytes:
        """`length` bytes from `offset`; Io if the server does not give them."""
        pieces = []
        while length:
            piece = self._read(min(length, _READ_MAX), offset)
            pieces.append(piece)
            length -= len(piece)
            offset += len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Ends the connection. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(Exception):
                handle.shutdown()

    def _read(self, length: int, offset: int) -> bytes:
        import nbd  # noqa: PLC0415 (libnbd's binding is needed by nobody else)

        try:
            return bytes(self._handle.pread(length, offset))
        except nbd.Error as error:
            if self._handle.aio_is_ready():
                raise Io(f"reading the origin {self.uri} at {offset}: {error.string}") from error
        self._handle = self._connect()
        if self._handle.get_size() != self._size:
            raise Io(f"the origin {self.uri} changed its size while it was used")
        try:
            return bytes(self._handle.pread(length, offset))
        except nbd.Error as error:
            raise Io(f"reading the origin {self.uri} at {offset}: {error.string}") from error

    def _connect(self) -> Any:
        return connect(self.uri, "origin")


def connect(uri: str, what: str) -> Any:
    """A libnbd handle connected to `uri`; Io, with `what` it would have been, if that fails; Invalid without libnbd."""
    try:
        import nbd  # noqa: PLC0415
    except ImportError as error:
        raise Invalid(f"an NBD {what} needs libnbd's Python binding (Debian: python3-libnbd)") from error
    handle = nbd.NBD()
    try:
        handle.set_full_info(True)
        handle.add_meta_context("base:allocation")
        # The server may be a proxy to a socket or a file of this machine: nothing but connecting is asked of the URI.
        handle.connect_uri(uri)
    except nbd.Error as error:
        raise Io(f"connecting to the {what} {uri}: {error.string}") from error
    return handle


def _lock_for_reading(descriptor: int, path: str) -> None:
    # struct flock: type, whence, start, length (0: to the end), pid (0 for a lock of the open file description).
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    except BlockingIOError as error:
        raise Busy(f"the origin {path} is locked by somebody who writes to it") from error


def _describe(descriptor: int, path: str) -> Origin:
    status = os.fstat(descriptor)
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if stat.S_ISBLK(status.st_mode):
        return Origin("device", path, size, device_identity(status.st_rdev), 0)
    # The time of the inode's change, not of the content's: the latter can be set back.
    return Origin("file", path, size, f"{status.st_dev}:{status.st_ino}", status.st_ctime_ns)


def device_identity(device: int) -> str:
    """What a block device calls itself: its numbers, and its WWID, device-mapper UUID or serial where it has one."""
    numbers = f"{os.major(device)}:{os.minor(device)}"
    folder = Path("/sys/dev/block") / numbers
    for name in ("wwid", "device/wwid", "dm/uuid", "device/serial", "serial"):
        with suppress(OSError):
            text = (folder / name).read_text(errors="replace").strip()
            if text:
                return f"{numbers} {text}"
    return numbers


def _differences(before: Origin, now: Origin) -> list[str]:
    result = []
    if before.kind != now.kind:
        result.append(f"it was a {before.kind} and is a {now.kind}")
    if before.path != now.path:
        result.append(f"it was {before.path} and is {now.path}")
    if before.size != now.size:
        result.append(f"it had {before.size} bytes and has {now.size}")
    if before.identity != now.identity:
        result.append(f"it was {before.identity} and is {now.identity}")
    if before.changed_stamp != now.changed_stamp:
        result.append("it was written to")
    return result
