"""Rounds: every row on every server of it, in turn, so that a disk or a neighbour that slows down meets all alike.

In a round, each kind of data begins with servers that were started anew over an export that was written once with that data; they are removed
before the next kind. The order of the servers turns from row to row and from round to round.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ways
from benchmarks.client import run_client
from benchmarks.data import KINDS, Data
from benchmarks.limits import measure_limits
from benchmarks.measure import Figures, measure
from benchmarks.rows import Row
from benchmarks.servers import SERVERS, NbdkitNull, Server
from benchmarks.verdicts import Key
from benchmarks.workloads import FILL

LIMIT_SECONDS_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    rows: Sequence[Row]
    servers: Sequence[str]
    data: Sequence[Data]
    seconds: float
    size_bytes: int

    def pairs(self, kind: Data) -> list[tuple[Row, list[str]]]:
        """The rows of load with this data, each with its servers that were asked for."""
        rows = [row for row in self.rows if row.way == "load" and kind in row.data and kind in self.data]
        found = [(row, [name for name in row.servers(kind) if name in self.servers]) for row in rows]
        return [(row, names) for row, names in found if names]


Told = Callable[[Key, Figures], None]


def run_round(plan: Plan, turn: int, folder: Path, told: Told) -> dict[str, float]:
    """One round; each figure is told as it is known. Returns the limits of the machine."""
    for kind in KINDS:
        pairs = plan.pairs(kind)
        names = [name for name in SERVERS if any(name in wanted for _, wanted in pairs)]
        with running(names, kind, folder / kind, plan.size_bytes) as servers:
            for at, (row, wanted) in enumerate(pairs):
                for name in turned(wanted, at + turn):
                    figures = measure(servers[name], row.workload, plan.size_bytes, plan.seconds, kind)
                    told((row.key, kind, name), figures)
    for row in plan.rows:
        for kind in row.data:
            if row.way != "load" and kind in plan.data:
                with removed(folder / f"{row.key}-{kind}") as own:
                    for name, figures in ways.WAYS[row.way](row, kind, own, plan.size_bytes, plan.seconds, turn):
                        told((row.key, kind, name), figures)
    return measure_limits(folder, min(plan.seconds / 4, LIMIT_SECONDS_MAX))


def turned(names: Sequence[str], turn: int) -> list[str]:
    """The same names, another one first in each turn."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


@contextlib.contextmanager
def removed(folder: Path) -> Iterator[Path]:
    """A new folder that is gone at the end, and with it what the disk still had to do for it."""
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.sync()


@contextlib.contextmanager
def running(names: Iterable[str], kind: Data, folder: Path, size_bytes: int) -> Iterator[dict[str, Server]]:
    """Servers by name, started, their exports filled; stopped, and their files removed, at the end."""
    with removed(folder), contextlib.ExitStack() as cleanup:
        servers: dict[str, Server] = {}
        for name in names:
            made = folder / name.replace(" ", "-")
            made.mkdir()
            server: Server = SERVERS[name](made, size_bytes)
            server.start()
            cleanup.callback(server.stop)
            if name != NbdkitNull.name:
                run_client(FILL, kind, server.uri, size_bytes, 0)
            servers[name] = server
        yield servers
