"""A load on one file of a mounted file system, after the idea of fsx: random changes, and a model in memory that every read is compared with.

Invariants:
- All that is random comes from the seed. How many steps `begin` takes depends on the machine, the steps themselves do not.
- A read that must come from the disk does: pages are written back and dropped first, or the read is direct.
- What the file system or the kernel has not (EOPNOTSUPP, EINVAL of a direct read) is left out from then on, and told by `Load.left_out`.
- The exerciser is a process of its own. Touching a mapped page holds Python's lock for as long as the disk takes, and a disk that waits for a daemon
  which that very process has to start would wait for ever; one that fails ends the process with SIGBUS.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import multiprocessing
import os
import random
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.rig.content import content

FILE_BYTES_MAX = 512 << 10
EXTENT_BYTES_MAX = 64 << 10
BLOCK = 4096
ANSWER_SECONDS = 90.0

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
"""linux/falloc.h."""


class Fsx:
    """The file and its model. `AssertionError` from whatever finds a difference, with the last steps."""

    def __init__(self, path: Path, seed: int) -> None:
        """`path` must not exist yet."""
        self._path = path
        self._rng = random.Random(seed)
        self._model = bytearray()
        self._last: deque[str] = deque(maxlen=20)
        self._steps = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.left_out: set[str] = set()
        # The whole file is looked at more often than cut: what went wrong is found before it is gone.
        self._weights: dict[Callable[[], None], int] = {
            self._write: 8,
            self._write_mapped: 5,
            self._truncate: 1,
            self._punch: 3,
            self._zero: 3,
            self._allocate: 1,
            self._read: 4,
            self._read_mapped: 2,
            self._read_direct: 3,
            self.check: 3,
            self._sync: 1,
            self._reopen: 1,
        }

    def step(self) -> None:
        """One change or look."""
        self._steps += 1
        (chosen,) = self._rng.choices(list(self._weights), list(self._weights.values()))
        try:
            chosen()
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP and (chosen, error.errno) != (self._read_direct, errno.EINVAL):
                raise
            self.left_out.add(chosen.__name__.strip("_"))
            del self._weights[chosen]

    def settle(self) -> bytes:
        """All is on the disk when this returns: what the file holds."""
        os.fsync(self._file)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return bytes(self._model)

    def check(self) -> None:
        """The whole file, read from the disk, and its size."""
        self._tell("check", 0, len(self._model))
        self._drop()
        size = os.fstat(self._file).st_size
        assert size == len(self._model), self._report(f"the file has {size} bytes, not {len(self._model)}")
        self._compare(0, _pread(self._file, size, 0))

    def _write(self) -> None:
        """Also past the end: what is between reads as zeros."""
        at, end = self._extent(FILE_BYTES_MAX)
        self._tell("write", at, end)
        data = content(end - at, self._rng.getrandbits(32))
        done = 0
        while done < len(data):
            done += os.pwrite(self._file, data[done:], at + done)
        self._put(at, data)

    def _write_mapped(self) -> None:
        if not self._model:
            return
        at, end = self._extent(len(self._model))
        self._tell("write mapped", at, end)
        data = content(end - at, self._rng.getrandbits(32))
        with mmap.mmap(self._file, len(self._model)) as mapped:
            mapped[at:end] = data
            if self._rng.random() < 0.7:
                first = at - at % mmap.PAGESIZE
                mapped.flush(first, end - first)
        self._put(at, data)

    def _truncate(self) -> None:
        size = self._rng.randint(0, FILE_BYTES_MAX) if self._rng.random() < 0.3 else self._extent(FILE_BYTES_MAX)[1]
        self._tell("truncate", size, size)
        os.ftruncate(self._file, size)
        del self._model[size:]
        self._grow(size)

    def _punch(self) -> None:
        """The size stays, also where the hole begins beyond it."""
        at, end = self._extent(FILE_BYTES_MAX)
        self._tell("punch", at, end)
        _fallocate(self._file, _PUNCH_HOLE | _KEEP_SIZE, at, end - at)
        self._clear(at, min(end, len(self._model)))

    def _zero(self) -> None:
        at, end = self._extent(FILE_BYTES_MAX)
        keep = self._rng.random() < 0.5
        self._tell("zero, size kept" if keep else "zero", at, end)
        _fallocate(self._file, _ZERO_RANGE | (_KEEP_SIZE if keep else 0), at, end - at)
        if not keep:
            self._grow(end)
        self._clear(at, min(end, len(self._model)))

    def _allocate(self) -> None:
        at, end = self._extent(FILE_BYTES_MAX)
        self._tell("allocate", at, end)
        _fallocate(self._file, 0, at, end - at)
        self._grow(end)

    def _read(self) -> None:
        """Also what begins or ends past the end of the file."""
        at, end = self._extent(FILE_BYTES_MAX)
        self._tell("read", at, end)
        self._compare(at, _pread(self._file, end - at, at), end)

    def _read_mapped(self) -> None:
        if not self._model:
            return
        at, end = self._extent(len(self._model))
        self._tell("read mapped", at, end)
        with mmap.mmap(self._file, len(self._model), access=mmap.ACCESS_READ) as mapped:
            self._compare(at, mapped[at:end], end)

    def _read_direct(self) -> None:
        at, end = self._extent(FILE_BYTES_MAX)
        at, end = at - at % BLOCK, end + -end % BLOCK
        self._tell("read direct", at, end)
        direct = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        # An anonymous mapping begins at a page, as direct I/O demands of its buffer.
        with mmap.mmap(-1, end - at) as buffer:
            try:
                count = os.preadv(direct, [buffer], at)
            finally:
                os.close(direct)
            self._compare(at, buffer[:count], end)

    def _sync(self) -> None:
        self._tell("fsync", 0, 0)
        (os.fsync if self._rng.random() < 0.5 else os.fdatasync)(self._file)

    def _reopen(self) -> None:
        self._tell("reopen", 0, 0)
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR)

    def _drop(self) -> None:
        """The next read of this file asks the disk."""
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def _extent(self, bound: int) -> tuple[int, int]:
        """From and to, one byte at least, below `bound`; a part of them whole blocks."""
        at = self._rng.randrange(bound)
        end = min(bound, at + self._rng.randint(1, EXTENT_BYTES_MAX))
        if self._rng.random() < 0.4:
            at, end = at - at % BLOCK, min(bound, end + -end % BLOCK)
        return at, end

    def _put(self, at: int, data: bytes) -> None:
        self._grow(at)
        self._model[at : at + len(data)] = data

    def _grow(self, size: int) -> None:
        self._model.extend(bytes(max(0, size - len(self._model))))

    def _clear(self, at: int, end: int) -> None:
        if end > at:
            self._model[at:end] = bytes(end - at)

    def _compare(self, at: int, read: bytes, end: int = FILE_BYTES_MAX) -> None:
        """`read` is all that the file has from `at` on, up to `end`."""
        wanted = self._model[at:end]
        if read != wanted:
            wrong = [number for number, (one, two) in enumerate(zip(read, wanted, strict=False)) if one != two]
            where = f"{len(wrong)} bytes differ, from {at + wrong[0]} to {at + wrong[-1]}" if wrong else "one is short"
            raise AssertionError(self._report(f"read {len(read)} bytes at {at}, not {len(wanted)}: {where}"))

    def _tell(self, what: str, at: int, end: int) -> None:
        self._last.append(f"{self._steps}: {what} {at} to {end} of {len(self._model)}")

    def _report(self, what: str) -> str:
        return "\n  ".join([f"{self._path}: {what}; the last steps were", *self._last])


class Load:
    """An `Fsx` in a process of its own. AssertionError from any call if the file was not as its model, or the process ended."""

    def __init__(self, path: Path, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._asking, answering = context.Pipe()
        self._process = context.Process(target=_serve, args=(answering, path, seed), daemon=True)
        self._process.start()
        # The end of the process is then the end of what this end reads.
        answering.close()

    def run(self, steps: int) -> None:
        """So many steps."""
        self._ask("run", steps)

    def begin(self, steps: int) -> None:
        """Returns after so many steps, and more are taken until anything else is asked for."""
        self._ask("begin", steps)

    def settle(self) -> bytes:
        """Ends what `begin` began. What the file holds, all of it on the disk."""
        data: bytes = self._ask("settle")
        return data

    def check(self) -> None:
        """Compares the whole file, read from the disk."""
        self._ask("check")

    def left_out(self) -> set[str]:
        """What the file system did not have."""
        names: set[str] = self._ask("left out")
        return names

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The file is closed when this returns, so that what it is on can be unmounted."""
        self._asking.close()
        self._process.join(ANSWER_SECONDS if kind is None else 1.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(ANSWER_SECONDS)

    def _ask(self, what: str, steps: int = 0) -> Any:
        # A process that failed since the last question has told why before it ended.
        with suppress(BrokenPipeError):
            self._asking.send((what, steps))
        try:
            assert self._asking.poll(ANSWER_SECONDS), f"no answer to {what!r} in {ANSWER_SECONDS} s"
            failure, answer = self._asking.recv()
        except (EOFError, OSError):
            self._process.join(ANSWER_SECONDS)
            raise AssertionError(f"the load ended with {self._process.exitcode}") from None
        assert failure is None, failure
        return answer


def _serve(asked: Connection, path: Path, seed: int) -> None:
    """The process: answers each question with (traceback or None, answer), until nobody asks any more."""
    fsx = Fsx(path, seed)
    try:
        while True:
            what, steps = asked.recv()
            asked.send((None, _answer(fsx, what, steps)))
            while what == "begin" and not asked.poll():
                fsx.step()
    except EOFError:
        return
    except BaseException:
        asked.send((traceback.format_exc(), None))


def _answer(fsx: Fsx, what: str, steps: int) -> object:
    for _ in range(steps):
        fsx.step()
    match what:
        case "settle":
            return fsx.settle()
        case "check":
            fsx.check()
        case "left out":
            return fsx.left_out
    return None


def _pread(file: int, count: int, at: int) -> bytes:
    """As much of it as the file has."""
    read = bytearray()
    while len(read) < count and (more := os.pread(file, count - len(read), at + len(read))):
        read += more
    return bytes(read)


def _fallocate(file: int, mode: int, at: int, count: int) -> None:
    """fallocate(2); OSError as of any other call."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(file, mode, ctypes.c_int64(at), ctypes.c_int64(count)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
