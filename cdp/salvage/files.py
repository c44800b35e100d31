"""Read-only access to one file of a store.

Nothing here can change a store: files are opened O_RDONLY, and without touching their access time where the system
permits that. Reads past the end come back short, because a file of a damaged store may be shorter than it should be.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from cdp.errors import Io, NotFound

PAGE = 4096
SECTOR = 512


class StoredFile:
    """One open file. Raises NotFound where there is none and Io where the system refuses to read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        try:
            self._descriptor = _open_quietly(path)
        except FileNotFoundError:
            raise NotFound(f"{path}: no such file") from None
        except OSError as error:
            raise Io(f"{path}: cannot open: {error.strerror}") from error
        status = os.fstat(self._descriptor)
        self.size = status.st_size or os.lseek(self._descriptor, 0, os.SEEK_END)  # devices tell it by seeking
        self.changed = status.st_mtime_ns

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes at `offset`; fewer only at the end of the file."""
        if offset >= self.size or count <= 0:
            return b""
        pieces: list[bytes] = []
        while count > 0:
            try:
                piece = os.pread(self._descriptor, min(count, 1 << 30), offset)
            except OSError as error:
                raise Io(f"{self.path}: cannot read at {offset}: {error.strerror}") from error
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of start..end (bytes) that are no holes, as far as the file system can tell."""
        while start < end:
            try:
                begin = os.lseek(self._descriptor, start, os.SEEK_DATA)
                finish = os.lseek(self._descriptor, begin, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole from here on
                    return
                begin, finish = start, end
            if begin >= end:
                return
            yield begin, min(finish, end)
            start = finish

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)


def read_whole(path: Path) -> bytes | None:
    """A small file's bytes, None where there is none. Raises Io."""
    try:
        file = StoredFile(path)
    except NotFound:
        return None
    try:
        return file.read(0, file.size)
    finally:
        file.close()


def allow_many_files() -> None:
    """Raises the soft bound on open files: a reader holds every segment of a volume open, so none can go meanwhile."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_quietly(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # O_NOATIME is for the owner only
        return os.open(path, flags)
