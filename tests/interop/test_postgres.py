"""PostgreSQL with its data on one attached volume and its WAL on another: every instant is a database.

A transaction that was acknowledged before an instant is there, one that was begun after it is not, none is there by half, and every table and
index is whole. The times of the clients and the stamps of the writes are of one clock.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.rig.attached import Devices, devices_of
from tests.rig.daemon import Daemon
from tests.rig.postgres import DATABASE, Ledger, Postgres, Transaction
from tests.rig.process import run

VOLUMES = {"data": ("ext4", "384MiB"), "wal": ("xfs", "320MiB")}
Way = Callable[[str], AbstractContextManager[None]]
MAKE = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q", "-f")}
GROUP, FROZEN = "db", "still"
LEDGER_CLIENTS = 4
PGBENCH_CLIENTS = 4


class Cluster:
    """Two volumes, their mounts and a server on them."""

    def __init__(self, devices: Devices, folder: Path) -> None:
        self._devices = devices
        self._cdp = devices.daemon.cdp
        self._folder = folder
        self.mounts = {volume: folder / volume for volume in VOLUMES}
        for mount in self.mounts.values():
            mount.mkdir()
        self.server = Postgres(folder)
        self.ledger = Ledger(self.server, LEDGER_CLIENTS)

    def create(self) -> None:
        """Volumes, file systems, the cluster, its tables."""
        for volume, (kind, size) in VOLUMES.items():
            self._cdp("create", volume, "--size", size)
            device = self._devices.attach(volume)
            run(*MAKE[kind], device)
            self._devices.detach(device)
        self._cdp("group", "create", GROUP, *VOLUMES)
        with self.live():
            self.server.create()
            with self.server.running():
                self.server.call("pgbench", *self.server.address(), "-i", "-q", "-s", "1", DATABASE)
                self.ledger.create(self.server)

    def load(self, seconds: int) -> int:
        """pgbench and the ledger for a time, and in it a bookmark with everything frozen, whose stamp is returned; then the server crashes, and its files are wrecked."""
        frozen = [word for mount in self.mounts.values() for word in ("--freeze", mount)]
        with self.live():
            with self.server.running(), self.ledger.writing():
                words = (*self.server.address(), "-c", str(PGBENCH_CLIENTS), "-j", "2", "-n", "-T", str(seconds))
                with self.server.begin("pgbench", *words, DATABASE) as pgbench:
                    bookmark = self._cdp("bookmark", "--group", GROUP, FROZEN, *frozen)
                    said, _ = pgbench.communicate()
                assert pgbench.returncode == 0, said
            for mount in self.mounts.values():
                for file in sorted(mount.rglob("*")):
                    if file.is_file() and not file.is_symlink():
                        file.write_bytes(os.urandom(512))
                shutil.rmtree(mount / "cluster")
        return int(bookmark["stamp"])

    @contextmanager
    def live(self) -> Iterator[None]:
        """The live volumes, mounted."""
        with self._mounted({volume: volume for volume in VOLUMES}):
            yield

    @contextmanager
    def scratch(self, when: str) -> Iterator[None]:
        """Views that are thrown away, where the live volumes were mounted."""
        told = self._cdp("group", "show", GROUP, "--at", when)["volumes"]
        with self._mounted({one["volume"]: f"{one['export']}+scratch" for one in told}):
            yield

    @contextmanager
    def restored(self, when: str) -> Iterator[None]:
        """Images, written by a restore."""
        images = self._folder / "images"
        images.mkdir()
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, images)
            self._cdp("restore", "--group", GROUP, "--at", when, "--to", images)
            for volume in VOLUMES:
                run("mount", "-o", "loop", images / f"{volume}.img", self.mounts[volume])
                stack.callback(run, "umount", self.mounts[volume])
            yield

    @contextmanager
    def rolled_back(self, when: str) -> Iterator[None]:
        """The live volumes, taken back."""
        self._cdp("rollback", "--group", GROUP, "--to", when)
        with self.live():
            yield

    @contextmanager
    def _mounted(self, exports: dict[str, str]) -> Iterator[None]:
        with ExitStack() as stack:
            for volume, export in exports.items():
                device = self._devices.attach(export)
                stack.callback(self._devices.detach, device)
                run("mount", device, self.mounts[volume])
                stack.callback(run, "umount", self.mounts[volume])
            yield

    def check(self, instant: int) -> tuple[int, int, int]:
        """What is mounted is a database, and holds what it has to. How many transactions were acknowledged before, how many were under way, and how many of these are there."""
        before, after = split(self.ledger.transactions, instant)
        with self.server.running():
            held = self.ledger.held(self.server)
            sums = "SELECT (SELECT sum({0}balance) FROM pgbench_{1}) - (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
            for table in ("accounts", "tellers", "branches"):
                assert self.server.sql(sums.format(table[0], table)) == [("0",)]
            self.server.check()
        assert not before - held, f"lost: {sorted(before - held)[:10]}"
        assert not after & held, f"from later: {sorted(after & held)[:10]}"
        return len(before), len(self.ledger.transactions) - len(before) - len(after), len(held - before)


def split(transactions: Sequence[Transaction], instant: int) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Those that were acknowledged before an instant, and those that were begun after it."""
    before = {
        (it.client, it.number) for it in transactions if it.acknowledged is not None and it.acknowledged < instant
    }
    after = {(it.client, it.number) for it in transactions if it.begun > instant}
    return before, after


def spell(instant: int) -> str:
    """As a WHEN."""
    return f"@{instant // 10**9}.{instant % 10**9:09}"


@pytest.fixture
def cluster(daemon: Daemon) -> Iterator[Cluster]:
    # Not under tmp_path, which nobody else may enter: the server has a user of its own.
    folder = Path(tempfile.mkdtemp(prefix="cdp-pg-"))
    folder.chmod(0o755)
    try:
        with devices_of(daemon, folder) as devices:
            made = Cluster(devices, folder)
            try:
                made.create()
                yield made
            finally:
                for mount in made.mounts.values():
                    if os.path.ismount(mount):
                        run("umount", "--lazy", mount)
    finally:
        shutil.rmtree(folder)


def restore_at_random(cluster: Cluster, rng: random.Random, instants: int, seconds: int) -> None:
    """Looks at so many instants of a load, and at the bookmark in it."""
    frozen = cluster.load(seconds)
    heard = [it.acknowledged for it in cluster.ledger.transactions if it.acknowledged is not None]
    print(f"{len(heard)} transactions acknowledged in {(max(heard) - min(heard)) / 1e9:.1f} s")
    wanted = sorted(rng.randrange(min(heard), max(heard)) for _ in range(instants))
    ways: list[Way] = [cluster.restored if number % 5 == 1 else cluster.scratch for number in range(instants)]
    # The last: what is live now is looked at no more.
    ways[-1] = cluster.rolled_back
    looks: list[tuple[str, int, Way]] = [(f"bookmark:{FROZEN}", frozen, cluster.scratch)]
    looks += [(spell(instant), instant, way) for instant, way in zip(wanted, ways, strict=True)]
    for when, instant, way in looks:
        with way(when):
            before, open_, late = cluster.check(instant)
        print(f"{when} {way.__name__}: {before} acknowledged before, {open_} under way, {late} of them there")


def test_postgresql_at_random_instants(cluster: Cluster, rng: random.Random) -> None:
    restore_at_random(cluster, rng, instants=3, seconds=5)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_postgresql_at_many_random_instants(cluster: Cluster, rng: random.Random) -> None:
    restore_at_random(cluster, rng, instants=20, seconds=30)
