"""A volume as a client sees it through libnbd: bytes written to a URI and read from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nbd


@contextmanager
def connected(uri: str) -> Iterator[Any]:
    """A libnbd handle, connected. It is shut down at the end, so that the server knows that the client is gone."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    try:
        yield handle
    finally:
        handle.shutdown()


def put(uri: str, offset: int, data: bytes, *, flush: bool = True) -> None:
    """Writes, and flushes unless told not to."""
    with connected(uri) as handle:
        handle.pwrite(data, offset)
        if flush:
            handle.flush()


def get(uri: str) -> bytes:
    """The whole export."""
    with connected(uri) as handle:
        size = handle.get_size()
        return b"".join(bytes(handle.pread(min(1 << 20, size - at), at)) for at in range(0, size, 1 << 20))
