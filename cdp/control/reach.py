"""Who does the work: the daemon if it answers, else we on the files.

Light to import: the command line asks on every start, and mostly there is nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cdp import config, sockets
from cdp.errors import CdpError
from cdp.store import LocalStore, Store


@contextmanager
def reach(store: Path) -> Iterator[Store]:
    """The store's verbs, for a `with` block."""
    if _somebody_listens(store):
        from cdp.control.client import RemoteStore  # noqa: PLC0415

        remote = RemoteStore(store)
        try:
            if remote.answers():
                yield remote
                return
        finally:
            remote.close()
    yield LocalStore(store)


def _somebody_listens(store: Path) -> bool:
    with suppress(CdpError, OSError):
        return sockets.answers(config.control_socket(store))
    return False
