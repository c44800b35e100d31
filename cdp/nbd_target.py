"""Copies a view to an export of an NBD server with libnbd, and compares the two.

Invariants:
- At most IN_FLIGHT writes are under way, so memory is bounded by IN_FLIGHT x CHUNK_BYTES whatever the server does.
- Every byte of the view's size is written or zeroed: nothing that the export held before shows through.
- Requests begin and end at multiples of CHUNK_BYTES, or at the end: no server's minimum block size is violated.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cdp import files
from cdp.errors import Corrupt, Invalid, Io
from cdp.store import Progress

if TYPE_CHECKING:
    from cdp import _native

CHUNK_BYTES = 1 << 20
IN_FLIGHT = 16
ZERO_BYTES_MAX = 1 << 30
"""A request's length has 32 bits without extended headers."""
_SECTOR = 512
FAULTS_MAX = 1000
"""Faults that are remembered one by one."""


class NbdCopy:
    """A connected libnbd handle and the size of what goes there."""

    def __init__(self, handle: Any, uri: str, size: int) -> None:
        import nbd  # noqa: PLC0415

        self._handle = handle
        self._nbd: Any = nbd
        self._uri = uri
        self._size = size
        self._pending: list[tuple[int, object]] = []
        """The cookies of writes under way, with the buffers that have to live as long."""
        if handle.is_read_only():
            raise Invalid(f"{uri} is read-only")
        if handle.get_size() < size:
            raise Invalid(f"{uri} has {handle.get_size()} bytes, {size} are needed")
        block = handle.get_block_size(nbd.SIZE_MINIMUM) or 1
        if size % block:
            raise Invalid(f"{uri} takes blocks of {block} bytes only, and {size} is no multiple")

    def write(self, view: _native.View, progress: Progress) -> _native.Restored:
        """The whole view, with zeros where a block is unreadable."""
        done: _native.Restored = {
            "written_bytes": 0,
            "cleared_bytes": 0,
            "found_done_bytes": 0,
            "fault_bytes": 0,
            "faults": [],
        }
        with self._errors("writing to"):
            for offset, length, zero in _pieces(view, self._size):
                if zero:
                    self._zero(offset, length)
                else:
                    data, faults = _read(view, offset, length)
                    done["faults"] += faults[: FAULTS_MAX - len(done["faults"])]
                    done["fault_bytes"] += sum(fault[1] for fault in faults)
                    self._pwrite(data, offset)
                    done["written_bytes"] += length
                progress(offset + length, self._size)
            self._drain(0)
        return done

    def flush(self) -> None:
        """Makes what was written durable, if the server can."""
        with self._errors("flushing"):
            if self._handle.can_flush():
                self._pending.append((self._handle.aio_flush(), None))
                self._drain(0)

    def compare(self, view: _native.View, progress: Progress) -> int | None:
        """The offset of the first byte that differs, or None."""
        for offset in range(0, self._size, CHUNK_BYTES):
            length = min(CHUNK_BYTES, self._size - offset)
            with self._errors("reading from"):
                buffer = self._nbd.Buffer(length)
                self._pending.append((self._handle.aio_pread(buffer, offset), buffer))
                self._drain(0)
                there = bytes(buffer.to_bytearray())
            here, _ = _read(view, offset, length)
            if there != here:
                return offset + next(i for i in range(length) if there[i] != here[i])
            progress(offset + length, self._size)
        return None

    def close(self) -> None:
        """Ends the connection, without waiting for writes that are under way. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None and not self._pending:
            with suppress(self._nbd.Error):
                handle.shutdown()

    def _zero(self, offset: int, length: int) -> None:
        if not self._handle.can_zero():
            for start in range(offset, offset + length, CHUNK_BYTES):
                self._pwrite(bytes(min(CHUNK_BYTES, offset + length - start)), start)
            return
        self._drain(IN_FLIGHT - 1)
        self._pending.append((self._handle.aio_zero(length, offset), None))

    def _pwrite(self, data: bytes, offset: int) -> None:
        self._drain(IN_FLIGHT - 1)
        buffer = self._nbd.Buffer.from_bytearray(bytearray(data))
        self._pending.append((self._handle.aio_pwrite(buffer, offset), buffer))

    def _drain(self, pending_max: int) -> None:
        # Cookies, not completion callbacks: an interrupt that hit a callback would be lost in libnbd, and its command with it.
        while len(self._pending) > pending_max:
            self._pending = [it for it in self._pending if not self._handle.aio_command_completed(it[0])]
            if len(self._pending) > pending_max:
                self._turn()

    def _turn(self) -> None:
        """Waits for the connection and moves it on. In Python, because libnbd's own wait cannot be interrupted."""
        direction = self._handle.aio_get_direction()
        readable, writable = direction & self._nbd.AIO_DIRECTION_READ, direction & self._nbd.AIO_DIRECTION_WRITE
        poller = select.poll()
        poller.register(
            self._handle.aio_get_fd(), (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0)
        )
        for _, happened in poller.poll():
            if readable and happened & ~select.POLLOUT:
                self._handle.aio_notify_read()
            elif writable:
                self._handle.aio_notify_write()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._nbd.Error as error:
            if error.errnum:
                raise files.os_error(f"{doing} {self._uri}", OSError(error.errnum, error.string)) from error
            raise Io(f"{doing} {self._uri}: {error.string}") from error


def _pieces(view: _native.View, size: int) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, zero) of pieces that cover the view: chunks that hold data, and runs of chunks that hold none."""
    hole = 0
    for start in range(0, size, CHUNK_BYTES * 64):
        length = min(CHUNK_BYTES * 64, size - start)
        data = _chunks_with_data(view, start, length)
        for offset in range(start, start + length, CHUNK_BYTES):
            if offset not in data and hole < ZERO_BYTES_MAX:
                hole += min(CHUNK_BYTES, size - offset)
                continue
            if hole:
                yield offset - hole, hole, True
                hole = 0
            if offset in data:
                yield offset, min(CHUNK_BYTES, size - offset), False
            else:
                hole = min(CHUNK_BYTES, size - offset)
    if hole:
        yield size - hole, hole, True


def _chunks_with_data(view: _native.View, start: int, length: int) -> set[int]:
    found: set[int] = set()
    offset = start
    for extent, zero in view.extents(start, length):
        if not zero:
            first = offset // CHUNK_BYTES * CHUNK_BYTES
            found.update(range(first, offset + extent, CHUNK_BYTES))
        offset += extent
    return found


def _read(view: _native.View, offset: int, length: int) -> tuple[bytes, list[tuple[int, int, str]]]:
    """The bytes, zeros where they cannot be had, and (offset, bytes, why) of those."""
    try:
        return view.read(offset, length), []
    except Corrupt:
        pieces: list[bytes] = []
    faults: list[tuple[int, int, str]] = []
    for start in range(offset, offset + length, _SECTOR):
        sector = min(_SECTOR, offset + length - start)
        try:
            pieces.append(view.read(start, sector))
        except Corrupt as error:
            pieces.append(bytes(sector))
            if faults and sum(faults[-1][:2]) == start:
                faults[-1] = (faults[-1][0], faults[-1][1] + sector, faults[-1][2])
            else:
                faults.append((start, sector, str(error)))
    return b"".join(pieces), faults
