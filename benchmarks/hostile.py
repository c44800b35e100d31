"""`python -m benchmarks.hostile`: what hostile clients do to the others: p99, the daemon's memory, descriptors and log.

A well-behaved client (`load`, 4 KiB, half reads, half writes) runs for `--seconds` by turns without and with an attack; what is reported are medians of the
rounds. The attackers are a process of their own (tests/hostile) that runs only where nobody else wants the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from benchmarks.data import pool
from benchmarks.procfs import cpu_seconds, peak_memory_bytes, reset_peak_memory
from benchmarks.programs import BUILT, program
from tests.hostile.attacks import ATTACKS
from tests.hostile.driver import Place, Sampler, WayName, attacked, connected, place
from tests.rig.cdp import ROOT
from tests.rig.process import ProgramFailed, run

WAYS: tuple[WayName, ...] = get_args(WayName)
NEWCOMERS = 5


@dataclass(frozen=True)
class Seen:
    """One run of the client: p99 in microseconds; what the daemon did meanwhile. `connect_ms`: a newcomer's time to its first reply, the worst."""

    read_p99: float
    write_p99: float
    read_p50: float
    write_p50: float
    requests: float
    memory_mib: float
    descriptors: int
    cpu: float
    log_bytes: int
    connect_ms: float


@dataclass
class Row:
    calm: list[Seen] = field(default_factory=list)
    beside: list[Seen] = field(default_factory=list)
    attacked: list[Seen] = field(default_factory=list)
    attackers: list[dict[str, int]] = field(default_factory=list)


def newcomer_ms(uri: str) -> float:
    """How long a client takes from connecting to its first reply."""
    since = time.monotonic()
    handle = connected(uri)
    handle.pread(4096, 0)
    took = time.monotonic() - since
    handle.shutdown()
    return took * 1e3


def load(options: list[str], seconds: float) -> dict[str, Any]:
    """The figures of one run. A Unix socket whose queue is full refuses at once: it is tried again."""
    for _ in range(1000):
        done = run(program("load"), *options, seconds=seconds + 300, exit_code=None)
        if "backlog overflowed" not in done.stderr:
            break
    if done.returncode:
        raise ProgramFailed(done.stderr)
    return dict(json.loads(done.stdout))


def measure(place: Place, data: Path, size_bytes: int, depth: int, seconds: float) -> Seen:
    pid, log = place.daemon.pid, place.daemon.log_path
    reset_peak_memory(pid)
    before, said = cpu_seconds(pid), log.stat().st_size
    options = [f"--uri={place.uri}", f"--size={size_bytes}", "--pattern=randrw", "--read-percent=50"]
    options += [f"--depth={depth}", f"--seconds={seconds}", f"--pool={data}"]
    with Sampler(pid) as sampler:
        found = load(options, seconds)
        cpu = (cpu_seconds(pid) - before) / found["seconds"]
        connect = max(newcomer_ms(place.uri) for _ in range(NEWCOMERS))
    return Seen(
        found["read"]["p99_ns"] / 1e3,
        found["write"]["p99_ns"] / 1e3,
        found["read"]["p50_ns"] / 1e3,
        found["write"]["p50_ns"] / 1e3,
        found["requests"] / found["seconds"],
        peak_memory_bytes(pid) / 2**20,
        sampler.most,
        cpu,
        log.stat().st_size - said,
        connect,
    )


def fill(place: Place, data: Path, size_bytes: int) -> None:
    options = [f"--uri={place.uri}", f"--size={size_bytes}", "--pattern=write", "--block=131072", "--depth=16"]
    run(program("load"), *options, "--once", "--end-flush", f"--pool={data}")


def line(way: str, attack: str, row: Row) -> str:
    def mid(side: list[Seen], name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in side))

    def ratio(name: str) -> str:
        calm, attacked = mid(row.calm, name), mid(row.attacked, name)
        beside = f", {mid(row.beside, name):.0f} beside" if row.beside else ""
        return f"{calm:.0f} → {attacked:.0f} ({attacked / calm:.2f}{beside})"

    most = max(one.memory_mib for one in row.attacked)
    calm = max(one.memory_mib for one in row.calm)
    descriptors = max(one.descriptors for one in row.attacked)
    begun = sum(each["begun"] for each in row.attackers)
    cells = (
        way,
        attack,
        ratio("read_p99"),
        ratio("write_p99"),
        ratio("requests"),
        f"{calm:.0f} → {most:.0f}",
        str(descriptors),
        f"{mid(row.attacked, 'cpu'):.2f}",
        f"{mid(row.attacked, 'log_bytes'):.0f}",
        f"{mid(row.calm, 'connect_ms'):.0f} → {mid(row.attacked, 'connect_ms'):.0f}",
        f"{begun}",
    )
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| way | attack | read p99 µs | write p99 µs | requests/s | peak MiB | descriptors | daemon CPU | log bytes | connect ms | connections |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


HOW = ("--idle", "--ready-seconds=2")


@contextmanager
def decoy(folder: Path, way: WayName, size_bytes: int) -> Iterator[Place]:
    """A daemon that runs only where nobody else wants the processor: what an attack on it does to others, the attackers and the machine do."""
    with place(folder, way, size_bytes) as made:
        for thread in Path(f"/proc/{made.daemon.pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
        yield made


def one_row(here: Place, beside: Place | None, attack: str, rounds: int, run_client: Callable[[], Seen]) -> Row:
    """Rounds of: without an attack, beside an attack on a decoy, under attack."""
    row = Row()
    for _ in range(rounds):
        row.calm.append(run_client())
        if beside is not None:
            with attacked(beside, attack, *HOW):
                row.beside.append(run_client())
        with attacked(here, attack, *HOW, figures=row.attackers):
            row.attacked.append(run_client())
    return row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=tuple(ATTACKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument(
        "--decoy", action="store_true", help="also attack another, idle daemon: what the attackers alone do"
    )
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache", help="on the disk to measure")
    return parser.parse_args()


def main() -> None:
    chosen = _arguments()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    size_bytes = chosen.size_mib << 20
    data = pool("half", BUILT)
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="h-", dir=chosen.folder) as scratch:
        for way in chosen.ways:
            with ExitStack() as stack:
                here = stack.enter_context(place(Path(scratch) / way, way, size_bytes))
                beside = None
                if chosen.decoy:
                    beside = stack.enter_context(decoy(Path(scratch) / f"decoy-{way}", way, size_bytes))
                fill(here, data, size_bytes)
                run_client = partial(measure, here, data, size_bytes, chosen.depth, chosen.seconds)
                for attack in chosen.attacks:
                    if way == "tls" or not ATTACKS[attack].tls:
                        print(line(way, attack, one_row(here, beside, attack, chosen.rounds, run_client)), flush=True)


if __name__ == "__main__":
    main()
