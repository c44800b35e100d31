"""The daemon's part of retention: every open volume is kept to its policy, about once a second, and to its share of the store's budget.

Invariants:
- A volume whose round takes long, or fails, holds up no other.
- Nothing is opened for this: a volume that nobody uses does not grow.
"""

from __future__ import annotations

import logging
from contextlib import suppress

import trio

from cdp import shared_budget
from cdp.catalog import Catalog
from cdp.errors import CdpError, Closed
from cdp.retention.shares import Sharer, share
from cdp.table import Table

log = logging.getLogger("cdp.keeping")

ROUND_SECONDS = 1.0
SOON_SECONDS = 0.1
"""While some volume gave something up for space: its writes may wait for the next step."""
THREADS_MAX = 4
"""Rounds that run at once; most take a millisecond."""


async def keep_volumes(catalog: Catalog, table: Table) -> None:
    """Runs until it is cancelled; a round that has begun is finished first."""
    busy: set[str] = set()
    threads = trio.CapacityLimiter(THREADS_MAX)
    rounds = Rounds(catalog, table)

    async def keep(volume_id: str) -> None:
        try:
            await trio.to_thread.run_sync(rounds.keep, volume_id, limiter=threads)
        finally:
            busy.discard(volume_id)

    async with trio.open_nursery() as nursery:
        while True:
            await trio.to_thread.run_sync(rounds.lend, limiter=threads)
            for volume_id in table.open_ids():
                if volume_id not in busy:
                    busy.add(volume_id)
                    nursery.start_soon(keep, volume_id)
            await trio.sleep(SOON_SECONDS if rounds.wait else ROUND_SECONDS)


class Rounds:
    """What is done again and again. What goes wrong is logged, once for each cause, and tried again the next time."""

    def __init__(self, catalog: Catalog, table: Table) -> None:
        self._catalog = catalog
        self._table = table
        self._logged: dict[str, str] = {}
        self._waiting: set[str] = set()

    @property
    def wait(self) -> bool:
        """Whether some volume's next round should come soon."""
        return bool(self._waiting)

    def keep(self, volume_id: str) -> None:
        """Keeps one volume to its policy, if it is still open."""
        with self._table.borrowed(volume_id) as volume:
            self._waiting.discard(volume_id)
            if volume is None:
                return
            try:
                volume.keep()
                self._logged.pop(volume_id, None)
                if volume.keeper is not None and volume.keeper.waits:
                    self._waiting.add(volume_id)
            except Closed:
                return
            except Exception as error:
                # Whatever it is: the other volumes, and the sessions of this one, go on.
                self._log(volume_id, volume.entry.name, error)

    def lend(self) -> None:
        """Gives every open volume its share of the store's budget. A budget that cannot be read bounds nobody."""
        try:
            shared = shared_budget.read(self._catalog.store)
            allowed = {} if shared.budget is None else self._shares(shared.budget)
            self._logged.pop("", None)
        except CdpError as error:
            self._log("", "the store's budget", error)
            allowed = {}
        for volume_id in self._table.open_ids():
            with self._table.borrowed(volume_id) as volume, suppress(Closed):
                if volume is not None:
                    volume.allow(allowed.get(volume_id))

    def _shares(self, budget: int) -> dict[str, int]:
        _, together = shared_budget.measure(entry.folder for entry in self._catalog.entries())
        used: dict[str, int] = {}
        for volume_id in self._table.open_ids():
            with self._table.borrowed(volume_id) as volume, suppress(Closed):
                if volume is not None:
                    used[volume_id] = int(volume.native.space()["used"])
        # What no open volume is charged for: volumes that rest, deleted ones, files that only clones still have.
        rest = Sharer("", max(0, together - sum(used.values())), growing=False)
        return dict(share(budget, [rest, *(Sharer(volume_id, bytes_) for volume_id, bytes_ in used.items())]))

    def _log(self, key: str, name: str, error: Exception) -> None:
        if self._logged.get(key) == str(error):
            return
        self._logged[key] = str(error)
        if isinstance(error, CdpError):
            log.warning("retention of %s: %s", name, error, extra={"volume": name})
        else:
            log.error("retention of %s failed", name, exc_info=error, extra={"volume": name})
