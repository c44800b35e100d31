"""Files that are replaced as a whole, and locks that die with their process.

Invariants:
- After `replace` returns, the new content survives power loss; before, a reader finds either the old or the new one.
- A lock is a flock(2) on an open descriptor: the kernel drops it when the process ends, however it ends.
- Errors of the operating system become the `cdp.errors` kind that fits, with the path named.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdp.errors import Busy, CdpError, Io, NoSpace, NotFound

_KINDS: dict[int, type[CdpError]] = {
    errno.ENOENT: NotFound,
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EBUSY: Busy,
    errno.EAGAIN: Busy,
    errno.ETXTBSY: Busy,
    errno.EADDRINUSE: Busy,
}


def os_error(what: str, error: OSError) -> CdpError:
    """The error of `cdp.errors` for an operating-system error that `what` (with its path) met."""
    kind = _KINDS.get(error.errno or 0, Io)
    return kind(f"{what}: {os.strerror(error.errno) if error.errno else error}")


@contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Turns an OSError of the block into an error of `cdp.errors`."""
    try:
        yield
    except OSError as error:
        raise os_error(what, error) from error


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Replaces a file atomically and durably, by way of `path.tmp`."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


@contextmanager
def locked(path: Path, *, wait: bool, busy: str, create: bool = False) -> Iterator[int]:
    """Holds the exclusive lock of a file or folder; yields its descriptor.

    `wait`: until the holder lets go, else Busy with the sentence `busy`. `create`: makes an empty file first if there is none.
    """
    flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
    with os_errors(f"locking {path}"):
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Busy(busy) from error
        except OSError as error:
            raise os_error(f"locking {path}", error) from error
        yield descriptor
    finally:
        os.close(descriptor)
