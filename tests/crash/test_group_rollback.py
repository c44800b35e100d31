"""kill -9 of the daemon while it rolls a group back: all volumes are where they were, or all are back, or the group says that it is unfinished, and
running the rollback again completes it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import nbd

from cdp.catalog import Catalog
from cdp.control.client import RemoteStore
from cdp.errors import CdpError
from cdp.group_files import GroupFiles
from cdp.when import At, Latest
from tests.rig.daemon import Daemon

VOLUMES = tuple(f"v{number}" for number in range(6))
BLOCK = 4096
ROUNDS = 4
KILL_MS_MAX = 12
"""From the moment in which the group's file says that it is begun. A rollback of so many volumes takes about so long."""


@contextmanager
def verbs(daemon: Daemon) -> Iterator[RemoteStore]:
    store = RemoteStore(daemon.store)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def client(daemon: Daemon, volume: str) -> Iterator[nbd.NBD]:
    handle = nbd.NBD()
    handle.connect_uri(daemon.uri(volume))
    yield handle
    handle.shutdown()


def write(daemon: Daemon, number: int) -> None:
    for volume in VOLUMES:
        with client(daemon, volume) as handle:
            handle.pwrite(bytes([number]) * BLOCK, 0)


def read(daemon: Daemon) -> set[int]:
    found = set()
    for volume in VOLUMES:
        with client(daemon, volume) as handle:
            found |= set(bytes(handle.pread(BLOCK, 0)))
    return found


def roll_back(daemon: Daemon, stamp: int) -> None:
    # It is killed under us.
    with suppress(CdpError), verbs(daemon) as store:
        store.groups.rollback("g", At(stamp), force=True)


def test_a_killed_rollback_of_a_group(daemon: Daemon, rng: random.Random) -> None:
    with verbs(daemon) as store:
        for volume in VOLUMES:
            store.create(volume, 1 << 20, BLOCK, None)
        store.groups.create("g", VOLUMES)
        write(daemon, 1)
        stamp = store.groups.resolve("g", Latest()).stamp
    groups = GroupFiles(Catalog(daemon.store))
    for number in range(2, 2 + ROUNDS):
        write(daemon, number)
        rolling = threading.Thread(target=roll_back, args=(daemon, stamp))
        rolling.start()
        while rolling.is_alive() and groups.find("g").pending is None:
            pass
        rolling.join(rng.uniform(0, KILL_MS_MAX / 1000))
        daemon.kill()
        rolling.join()
        daemon.start()
        with verbs(daemon) as store:
            if store.groups.show("g").unfinished is None:
                assert read(daemon) in ({1}, {number})
            store.groups.rollback("g", At(stamp), force=True)
            shown = store.groups.show("g")
            assert (shown.unfinished, shown.problems) == (None, ())
        assert read(daemon) == {1}
