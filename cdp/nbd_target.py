"""Copies a view to an export of an NBD server with libnbd, and compares the two.

Invariants:
- At most IN_FLIGHT writes are under way, so memory is bounded by IN_FLIGHT x CHUNK_BYTES whatever the server does.
- Every byte of the view's size is written, zeroed, or was read and is the same: nothing that the export held before shows through.
- Requests begin and end at multiples of CHUNK_BYTES, or at the end: no server's minimum block size is violated.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
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
_ALLOCATION = "base:allocation"
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
        self._block = max(_SECTOR, block)

    def write(
        self, view: _native.View, progress: Progress, ranges: Sequence[tuple[int, int]] | None = None
    ) -> _native.Restored:
        """The view, or the chunks that `ranges` (start, end) touch, with zeros where a block is unreadable. What the export holds already is not written."""
        done: _native.Restored = {
            "written_bytes": 0,
            "cleared_bytes": 0,
            "found_done_bytes": 0,
            "fault_bytes": 0,
            "faults": [],
        }
        spans = [(0, self._size)] if ranges is None else _chunks_of(ranges, self._size)
        with self._errors("writing to"):
            for start, end in spans:
                for offset, length, zero in _pieces(view, start, end):
                    if zero:
                        done["cleared_bytes"] += self._clear(offset, length)
                    else:
                        data, faults = _read(view, offset, length)
                        done["faults"] += faults[: FAULTS_MAX - len(done["faults"])]
                        done["fault_bytes"] += sum(fault[1] for fault in faults)
                        done["written_bytes"] += self._update(data, offset)
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
                there = self._pread(offset, length)
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

    def _update(self, data: bytes, offset: int) -> int:
        """Writes what differs from what is there; bytes."""
        there = bytes(len(data)) if self._is_zero(offset, len(data)) else self._pread(offset, len(data))
        written = 0
        for start, end in _differences(data, there, self._block):
            self._pwrite(data[start:end], offset + start)
            written += end - start
        return written

    def _clear(self, offset: int, length: int) -> int:
        """Makes a range zeros where the server does not say that it is; bytes. Bytes that it does not say are zeros need not be other."""
        if self._is_zero(offset, length):
            return 0
        if not self._handle.can_zero():
            return sum(
                self._update(bytes(min(CHUNK_BYTES, offset + length - start)), start)
                for start in range(offset, offset + length, CHUNK_BYTES)
            )
        self._drain(IN_FLIGHT - 1)
        self._pending.append((self._handle.aio_zero(length, offset), None))
        return length

    def _is_zero(self, offset: int, length: int) -> bool:
        """Whether the server says that the range reads as zeros."""
        if not self._handle.can_meta_context(_ALLOCATION):
            return False
        told: list[int] = []

        def note(context: str, start: int, entries: list[int], error: int) -> int:
            if context == _ALLOCATION and start == offset and not error:
                told.extend(entries)
            return 0

        self._pending.append((self._handle.aio_block_status(length, offset, note), note))
        self._drain(0)
        covered = 0
        for count, flags in zip(told[::2], told[1::2], strict=True):
            if not flags & self._nbd.STATE_ZERO:
                return False
            covered += count
        return covered >= length

    def _pread(self, offset: int, length: int) -> bytes:
        buffer = self._nbd.Buffer(length)
        self._pending.append((self._handle.aio_pread(buffer, offset), buffer))
        self._drain(0)
        return bytes(buffer.to_bytearray())

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


def _chunks_of(ranges: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The whole chunks that ranges touch."""
    touched = {n for start, end in ranges for n in range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES))}
    return [(n * CHUNK_BYTES, min(size, (n + 1) * CHUNK_BYTES)) for n in sorted(touched)]


def _differences(data: bytes, there: bytes, block: int) -> list[tuple[int, int]]:
    """Ranges of blocks of `data` that differ, neighbours joined."""
    found: list[tuple[int, int]] = []
    if data == there:
        return found
    for start in range(0, len(data), block):
        end = min(start + block, len(data))
        if data[start:end] != there[start:end]:
            first = found.pop()[0] if found and found[-1][1] == start else start
            found.append((first, end))
    return found


def _pieces(view: _native.View, first: int, last: int) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, zero) of pieces that cover the range: chunks that hold data, and runs of chunks that hold none."""
    hole = 0
    for start in range(first, last, CHUNK_BYTES * 64):
        length = min(CHUNK_BYTES * 64, last - start)
        data = _chunks_with_data(view, start, length)
        for offset in range(start, start + length, CHUNK_BYTES):
            if offset not in data and hole < ZERO_BYTES_MAX:
                hole += min(CHUNK_BYTES, last - offset)
                continue
            if hole:
                yield offset - hole, hole, True
                hole = 0
            if offset in data:
                yield offset, min(CHUNK_BYTES, last - offset), False
            else:
                hole = min(CHUNK_BYTES, last - offset)
    if hole:
        yield last - hole, hole, True


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
