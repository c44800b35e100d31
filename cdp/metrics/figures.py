"""The figures of a daemon and of its volumes, gathered for one scrape.

Invariants:
- Nothing is opened for a scrape: of a volume that is closed only the catalog and the sizes of its files are told.
- A volume whose figures cannot be had is `failed`, and costs the others nothing.
- No data is read: what is asked for is in memory, but for the sizes of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cdp import history, shared_budget
from cdp.catalog import Catalog, Entry
from cdp.errors import CdpError
from cdp.facts import AttachmentFacts, SpaceFacts
from cdp.standing import space_facts
from cdp.volume import OpenVolume

if TYPE_CHECKING:
    from cdp import _native
    from cdp.table import Table

Account = Mapping[str, Any]
"""What `_native.Server.accounts` tells of one."""


@dataclass(frozen=True, slots=True)
class OpenFigures:
    """Of a volume that is open. Spans in seconds, None: for ever; stamps in nanoseconds since 1970."""

    status: Mapping[str, Any]
    told: Mapping[str, Any]
    space: SpaceFacts
    oldest_stamp: int
    horizon_stamp: int
    promised_seconds: int | None
    reached_seconds: float
    condition: str
    shortened: bool
    minimum_broken: bool
    bookmarks: int
    pins: int
    faults: int


@dataclass(frozen=True, slots=True)
class VolumeFigures:
    """Of one volume. `failed`: it is damaged, or was asked for and could not be opened or asked. `accounts`: by kind of export."""

    name: str
    id: str
    size: int | None
    disk_bytes: int
    failed: bool
    attached: int
    lost_devices: int
    open: OpenFigures | None = None
    accounts: Mapping[str, Account] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the daemon. Bytes; `store_budget` None: the volumes share none; `latency_bounds` in nanoseconds."""

    totals: Mapping[str, int]
    started_stamp: int
    volumes: Sequence[VolumeFigures]
    store_bytes: int
    store_budget: int | None
    latency_bounds: Sequence[int]


class Gatherer:
    """Gathers the figures of a daemon. May be called from any thread, and waits for no volume."""

    def __init__(
        self,
        catalog: Catalog,
        table: Table,
        native: _native.Server,
        started_stamp: int,
        attached: Callable[[], Sequence[AttachmentFacts]],
    ) -> None:
        """`attached`: the block devices of this machine that show a volume of the store."""
        self._catalog = catalog
        self._table = table
        self._native = native
        self._started = started_stamp
        self._attached = attached

    def gather(self) -> Figures:
        """Now. Errors of the catalog itself pass through."""
        entries = self._catalog.entries()
        taken, together = shared_budget.measure(entry.folder for entry in entries)
        accounts, attached = self._native.accounts(), self._attached()
        return Figures(
            totals=self._native.totals(),
            started_stamp=self._started,
            volumes=[
                self._volume(entry.id, entry, taken[entry.id].used, accounts, attached)
                for entry in entries
                if not (isinstance(entry, Entry) and entry.deleted)
            ],
            store_bytes=together,
            store_budget=self._budget(),
            latency_bounds=self._native.latency_bounds(),
        )

    def _volume(
        self,
        volume_id: str,
        entry: object,
        disk_bytes: int,
        accounts: Mapping[str, Account],
        attached: Sequence[AttachmentFacts],
    ) -> VolumeFigures:
        known = entry if isinstance(entry, Entry) else None
        opened, failed = None, known is None or self._table.failure(volume_id) is not None
        size = None if known is None else known.description.shown_size
        try:
            with self._table.borrowed(volume_id) as volume:
                if volume is not None:
                    opened, size = open_figures(volume), volume.native.size
        except CdpError:
            failed = True
        return VolumeFigures(
            name=volume_id if known is None else known.name,
            id=volume_id,
            size=size,
            disk_bytes=disk_bytes,
            failed=failed,
            attached=sum(one.volume_id == volume_id for one in attached),
            lost_devices=sum(one.volume_id == volume_id and one.state == "lost" for one in attached),
            open=opened,
            accounts=accounts_of(volume_id, accounts),
        )

    def _budget(self) -> int | None:
        try:
            return shared_budget.read(self._catalog.store).budget
        except CdpError:
            return None  # The daemon's log tells of it.


def account_name(volume_id: str, export: str) -> str:
    """Under what the requests of an export are counted. `export`: live, instant or scratch."""
    return f"{volume_id} {export}"


def accounts_of(volume_id: str, accounts: Mapping[str, Account]) -> dict[str, Account]:
    """A volume's accounts, by kind of export."""
    kinds = ("live", "instant", "scratch")
    return {kind: accounts[name] for kind in kinds if (name := account_name(volume_id, kind)) in accounts}


def open_figures(volume: OpenVolume) -> OpenFigures:
    """The figures of an open volume. Closed if it is closed meanwhile."""
    native = volume.native
    told, reach, oldest, latest = native.space(), native.reach(), native.oldest(), native.latest()
    policy, _ = volume.policy()
    keeper = volume.keeper
    return OpenFigures(
        status=native.status(),
        told=told,
        space=space_facts(volume, told),
        oldest_stamp=oldest.stamp,
        horizon_stamp=int(reach["horizon_stamp"]),
        promised_seconds=policy.promised,
        reached_seconds=max(0, latest.stamp - oldest.stamp) / 1e9,
        condition=history.condition(told, policy.full),
        shortened=keeper is not None and keeper.shortened,
        minimum_broken=keeper is not None and keeper.minimum_broken,
        bookmarks=len(volume.bookmarks()),
        pins=sum(holders for _, holders in native.pins()),
        faults=len(native.faults()),
    )
