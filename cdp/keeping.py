"""The daemon's part of retention: every open volume is kept to its policy, about once a second, and to its share of the store's budget.

Invariants:
- A volume whose round takes long, or fails, holds up no other.
- Nothing is opened for this: a volume that nobody uses does not grow.
"""

from __future__ import annotations

import logging
from functools import partial

import trio

from cdp import shared_budget
from cdp.catalog import Catalog
from cdp.errors import CdpError, Closed
from cdp.retention.shares import Sharer, share
from cdp.table import Table

log = logging.getLogger("cdp.keeping")

ROUND_SECONDS = 1.0
THREADS_MAX = 4
"""Rounds that run at once; most take a millisecond."""


async def keep_volumes(catalog: Catalog, table: Table) -> None:
    """Runs until it is cancelled; a round that has begun is finished first."""
    busy: set[str] = set()
    threads = trio.CapacityLimiter(THREADS_MAX)

    async def keep(volume_id: str) -> None:
        try:
            await trio.to_thread.run_sync(keep_one, table, volume_id, limiter=threads)
        finally:
            busy.discard(volume_id)

    async with trio.open_nursery() as nursery:
        while True:
            await trio.to_thread.run_sync(partial(lend, catalog, table), limiter=threads)
            for volume_id in table.open_ids():
                if volume_id not in busy:
                    busy.add(volume_id)
                    nursery.start_soon(keep, volume_id)
            await trio.sleep(ROUND_SECONDS)


def keep_one(table: Table, volume_id: str) -> None:
    """One round for one volume, if it is still open. What goes wrong is logged: the next round tries again."""
    with table.borrowed(volume_id) as volume:
        if volume is None:
            return
        try:
            volume.keep()
        except Closed:
            return
        except CdpError as error:
            log.warning("%s: retention: %s", volume.entry.name, error)


def lend(catalog: Catalog, table: Table) -> None:
    """Gives every open volume its share of the store's budget. A budget that cannot be read bounds nobody."""
    try:
        shared = shared_budget.read(catalog.store)
        allowed = {} if shared.budget is None else _shares(catalog, table, shared.budget)
    except CdpError as error:
        log.warning("%s", error)
        allowed = {}
    for volume_id in table.open_ids():
        with table.borrowed(volume_id) as volume:
            if volume is not None:
                try:
                    volume.allow(allowed.get(volume_id))
                except CdpError as error:
                    log.warning("%s: %s", volume.entry.name, error)


def _shares(catalog: Catalog, table: Table, budget: int) -> dict[str, int]:
    entries = catalog.entries()
    taken, together = shared_budget.measure(entry.folder for entry in entries)
    growing = set(table.open_ids())
    sharers = [Sharer(entry.id, taken[entry.id].used, entry.id in growing) for entry in entries]
    # A shared file counts for each that has it: what is counted twice is lent on top.
    twice = sum(one.used for one in taken.values()) - together
    return dict(share(budget + twice, sharers))
