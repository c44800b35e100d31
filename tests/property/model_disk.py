"""A volume that is served, beside its model: its connections and open views, what was asked of it, and what it says that it keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nbd

from cdp import _native
from cdp.control.client import RemoteStore
from cdp.errors import Busy, NotFound
from cdp.retention import policy
from cdp.store import LocalStore
from tests.property.model_readers import connect, read_all
from tests.property.model_volume import Model, Piece, Sent
from tests.rig.daemon import Daemon

CONNECTIONS = 3
PATIENCE_SECONDS = 60.0
EVERYTHING = policy.settings(policy.DEFAULT)
NOTHING = {"every_write": "0", "minutes": "0", "hours": "0", "days": "0", "minimum": "0"}
SECOND = 10**9

T = TypeVar("T")


@dataclass(frozen=True)
class Reach:
    """What a volume keeps, as its manifest says: every record from `horizon` on, and `points` below it."""

    horizon: int
    points: frozenset[int]

    def holds(self, lsn: int) -> bool:
        return lsn >= self.horizon or lsn in self.points


class Disk:
    """`most`: a horizon that lies above it took away what the policy promises."""

    def __init__(self, daemon: Daemon, name: str, model: Model) -> None:
        self.daemon = daemon
        self.name = name
        self.model = model
        self.folder = LocalStore(daemon.store).catalog.find(name).folder
        self.views: list[tuple[int, Any]] = []
        self.stamps: dict[int, int] = {}
        self.kept = Reach(min(model.lsns()), frozenset())
        self.most: int | None = self.kept.horizon
        self.handles = self.connected()

    @classmethod
    def cloned(cls, parent: Disk, name: str, lsn: int) -> Disk:
        """The clone `name` of `parent` at `lsn`, which is pinned down."""
        folder = LocalStore(parent.daemon.store).catalog.find(name).folder
        floor, base = _looked(folder, lambda volume: volume.branches())[-1]
        assert base == lsn < floor
        return cls(parent.daemon, name, parent.model.branch(lsn, floor))

    def connected(self) -> list[Any]:
        """Connections to the live volume."""
        return [connect(self.daemon.uri(self.name)) for _ in range(CONNECTIONS)]

    def disconnect(self) -> None:
        for handle in self.handles:
            handle.shutdown()
        self.handles = []

    def timed(self, pieces: list[Piece], request: Callable[[], object]) -> None:
        before = time.time_ns()
        request()
        self.model.apply(pieces, Sent(before, time.time_ns()))

    def begin(self, pieces: Sequence[Piece]) -> list[tuple[Any, int]]:
        """Sends writes on all connections and waits for none: (connection, cookie)."""
        waiting = []
        for number, (offset, content) in enumerate(pieces):
            handle = self.handles[number % CONNECTIONS]
            waiting.append((handle, handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(content)), offset)))
        return waiting

    def control(self, verb: Callable[[RemoteStore], T]) -> T:
        with remote(self.daemon.store) as store:
            return verb(store)

    def set_policy(self, settings: Mapping[str, str]) -> None:
        self.control(lambda store: store.set_retention(self.name, settings))
        self.model.note_control(self.model.last_lsn + 1)
        # From here on it may give up all that it has; what comes after a promise is kept.
        self.most = None if settings == NOTHING else self.model.last_lsn

    def give_up(self) -> None:
        """Makes it forget all that lies before now, but for what is held. Ages are counted back from the newest record, in whole seconds."""
        self.set_policy(NOTHING)
        given = self.model.last_lsn
        # What a writable view shares is sealed for it, and what is sealed can be compacted.
        connect(self.daemon.uri(self.name, f"lsn:{given}+scratch")).shutdown()
        while time.time_ns() // SECOND == self._stamp(given) // SECOND:
            # Time has to pass. Nobody is waited for.
            time.sleep((SECOND - time.time_ns() % SECOND) / SECOND)
        self.set_policy(NOTHING)
        self.compact()
        assert self.reach().horizon >= given

    def give_up_to(self, horizon: int) -> None:
        """While nobody serves it: forgets what lies before an instant, but for bookmarks, and frees that."""
        volume = _native.Volume.open(str(self.folder))
        try:
            # It never goes back.
            horizon = max(horizon, int(volume.reach()["horizon"]))
            volume.retain(horizon, [lsn for lsn in self.model.bookmarks.values() if lsn < horizon])
            volume.compact(1 << 40)
        finally:
            volume.close()
        if self.most is not None:
            self.most = max(self.most, horizon)

    def compact(self) -> None:
        self.control(lambda store: store.compact(self.name))

    def shown(self) -> bytes:
        """The live volume."""
        return read_all(self.handles[0], self.model.size)

    def reach(self) -> Reach:
        """What it keeps now. Nothing that was given up came back, nothing went that somebody holds or was promised."""
        newest = self.model.newest
        told = self._looked(lambda volume: volume.reach())
        reach = Reach(int(told["horizon"]), frozenset(int(lsn) for lsn, _, _ in told["points"]))
        assert reach.horizon >= self.kept.horizon
        assert all(self.kept.holds(lsn) for lsn in reach.points)
        assert self.most is None or reach.horizon <= self.most
        assert reach.horizon <= newest
        lost = {
            lsn for lsn in (*self.model.bookmarks.values(), *(lsn for lsn, _ in self.views)) if not reach.holds(lsn)
        }
        assert not lost, f"held, and gone: {lost}"
        self.kept = reach
        return reach

    def learn_stamps(self) -> dict[int, int]:
        """The stamps of the instants that can be reached now. They stay what they were, also of what was compacted."""

        def look(volume: _native.Volume) -> dict[int, int]:
            return {lsn: stamp for lsn in self.model.lsns() if (stamp := _stamp_of(volume, lsn)) is not None}

        found = self._looked(look)
        for lsn, stamp in found.items():
            assert self.stamps.setdefault(lsn, stamp) == stamp, f"LSN {lsn}"
            if lsn in self.model.sent:
                before, after = self.model.sent[lsn]
                assert before <= stamp <= after, f"LSN {lsn}"
        assert list(found.values()) == sorted(found.values())
        return found

    def _stamp(self, lsn: int) -> int:
        stamp = self._looked(lambda volume: _stamp_of(volume, lsn))
        assert stamp is not None
        return stamp

    def _looked(self, look: Callable[[_native.Volume], T]) -> T:
        return _looked(self.folder, look)


def _looked(folder: Path, look: Callable[[_native.Volume], T]) -> T:
    volume = _native.Volume.open(str(folder), read_only=True)
    try:
        return look(volume)
    finally:
        volume.close()


def replied(handle: Any, cookie: int) -> bool:
    """Waits for the reply to a request: whether one came before the connection ended."""
    try:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)
    except nbd.Error:
        return False
    return True


@contextmanager
def remote(path: Path) -> Iterator[RemoteStore]:
    """The verbs, done by the daemon."""
    store = RemoteStore(path)
    try:
        yield store
    finally:
        store.close()


def patiently(work: Callable[[], T]) -> T:
    """Again and again while it is Busy: the server learns of the end of a connection after the client does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return work()
        except Busy:
            if time.monotonic() > deadline:
                raise


def _stamp_of(volume: _native.Volume, lsn: int) -> int | None:
    try:
        return volume.instant_of_lsn(lsn).stamp
    except NotFound:
        return None
