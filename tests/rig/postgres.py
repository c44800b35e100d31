"""A PostgreSQL server in a test, with its data in one place and its WAL in another, and clients that know when each transaction was begun and acknowledged.

It runs as the user `postgres` (it refuses root), listens on a Unix socket alone, and has the settings that a server has: fsync, synchronous commit, full pages.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

USER = "postgres"
DATABASE = "postgres"
START_SECONDS = 120
STOP_SECONDS = 60.0
SETTINGS = {
    "listen_addresses": "''",
    "max_wal_size": "32MB",
    "min_wal_size": "8MB",
    "checkpoint_timeout": "30s",
    "shared_buffers": "16MB",
    "max_connections": "30",
    "jit": "off",
}
"""Small, so that it writes to its files all the time: checkpoints follow one another, and buffers are evicted."""


def programs() -> Path:
    """The folder of the newest server's programs. Skips the test where there is none, but not in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_amcheck"), key=lambda path: int(path.parts[-3]))
    if not found:
        assert not os.environ.get("CI"), "no PostgreSQL (Debian package postgresql)"
        pytest.skip("no PostgreSQL (Debian package postgresql)")
    return found[-1].parent


class Postgres:
    """One server, whatever is mounted where its data and its WAL are."""

    def __init__(self, folder: Path) -> None:
        """`folder`: may be entered by everybody; in it `data` and `wal` are mounted later."""
        self._programs = programs()
        self._folder = folder
        self._data = folder / "data" / "cluster"
        self._wal = folder / "wal" / "cluster"
        self._run = folder / "run"
        _own(self._run)
        self.log = folder / "run" / "log"

    def create(self) -> None:
        """A new cluster on what is mounted."""
        _own(self._data)
        _own(self._wal)
        options = ("--auth=trust", "--data-checksums", "--wal-segsize=4", "--no-locale", "--encoding=UTF8")
        self.call("initdb", *options, f"--waldir={self._wal}", f"--pgdata={self._data}")
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())

    def start(self) -> None:
        """Returns when it has recovered, and takes connections."""
        try:
            self.call("pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-D", self._data, "-l", self.log, "-o", f"-k {self._run}")  # fmt: skip
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- {self.log}\n{self.log.read_text()[-10000:]}") from None

    def stop(self) -> None:
        """As a crash: nothing is written any more. Returns when all its processes have ended, and its files can be unmounted."""
        server = (self._data / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        with ExitStack() as watched:
            processes = [watched.enter_context(_process(int(child))) for child in children]
            self.call("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)
            # It does not wait for one that is in the middle of a write.
            for process in processes:
                assert process is None or select.select([process], [], [], STOP_SECONDS)[0], (
                    "a process of the server does not end"
                )

    @contextmanager
    def running(self) -> Iterator[None]:
        """The server, for a `with` block."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def sql(self, text: str) -> list[tuple[str, ...]]:
        """The rows of a statement's answer."""
        said = self.call("psql", *self.address(), "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", text, "-d", DATABASE)
        return [tuple(line.split("|")) for line in said.splitlines()]

    def check(self) -> None:
        """AssertionError unless every table and every index is whole."""
        deep = ("--heapallindexed", "--parent-check", "--rootdescend")
        self.call("pg_amcheck", *self.address(), "--install-missing", *deep, DATABASE)

    def address(self) -> tuple[str, ...]:
        """Options of client programs."""
        return ("-h", str(self._run))

    def call(self, program: str, *words: str | Path) -> str:
        """Runs one of its programs; what it printed. AssertionError, with all of it, if it fails."""
        with self.begin(program, *words) as process:
            said, _ = process.communicate(timeout=2 * START_SECONDS)
        assert process.returncode == 0, f"{program} {words} ended with {process.returncode}\n{said}"
        return said

    def begin(self, program: str, *words: str | Path) -> subprocess.Popen[str]:
        """Starts one of its programs, with pipes."""
        # It inherits nothing of the user who tests but the bare surroundings, and can enter its working directory.
        return subprocess.Popen(
            [str(self._programs / program), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            user=USER,
            group=USER,
            extra_groups=(),
            start_new_session=True,
        )


@dataclass(frozen=True, slots=True)
class Transaction:
    """One of the ledger's. `begun`: before BEGIN was sent; `acknowledged`: after COMMIT was, None if that was never heard of; CLOCK_REALTIME, ns."""

    client: int
    number: int
    begun: int
    acknowledged: int | None


class Ledger:
    """Clients that write numbered transactions, each into two tables, one after another, until told to stop or the server ends."""

    def __init__(self, server: Postgres, clients: int) -> None:
        self._server = server
        self._stop = threading.Event()
        self._done: list[list[Transaction]] = [[] for _ in range(clients)]
        self._threads = [threading.Thread(target=self._write, args=(client,)) for client in range(clients)]

    @staticmethod
    def create(server: Postgres) -> None:
        for table in ("ledger", "twin"):
            server.sql(f"CREATE TABLE {table} (client int, number int, note text, PRIMARY KEY (client, number))")

    @staticmethod
    def held(server: Postgres) -> set[tuple[int, int]]:
        """What a server's tables hold: client and number of each. AssertionError for half a transaction."""
        tables = [
            {(int(client), int(number)) for client, number in server.sql(f"SELECT client, number FROM {table}")}
            for table in ("ledger", "twin")
        ]
        assert tables[0] == tables[1], f"half there: {sorted(tables[0] ^ tables[1])[:10]}"
        return tables[0]

    @property
    def transactions(self) -> Sequence[Transaction]:
        return [one for done in self._done for one in done]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Writes inside the `with` block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _write(self, client: int) -> None:
        words = (*self._server.address(), "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", DATABASE)
        with self._server.begin("psql", *words) as psql, suppress(BrokenPipeError):
            assert psql.stdin is not None
            assert psql.stdout is not None
            number = 0
            while not self._stop.is_set():
                values = f"VALUES ({client}, {number}, repeat(md5('{client} {number}'), 8))"
                text = f"BEGIN; INSERT INTO ledger {values}; INSERT INTO twin {values}; COMMIT;\n\\echo done {number}\n"
                begun = time.time_ns()
                psql.stdin.write(text)
                psql.stdin.flush()
                heard = psql.stdout.readline() == f"done {number}\n"
                self._done[client].append(Transaction(client, number, begun, time.time_ns() if heard else None))
                if not heard:
                    return
                number += 1


@contextmanager
def _process(pid: int) -> Iterator[int | None]:
    """A descriptor that is readable when a process has ended; None if it has already."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _own(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    shutil.chown(folder, USER, USER)
