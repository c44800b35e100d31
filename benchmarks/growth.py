"""`python -m benchmarks.growth`: is a volume with ten times the history, or of ten times the size, as fast as before?

Three times a daemon of this project and `nbdkit file` with an export of the same size, filled and then written at random: a small one; one that was written ten times as often; one of ten times the size.
Both servers of a pair get the same writes, and take turns. What is compared is our ratio to `nbdkit file`. Runs are short, so that what is measured adds little history.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.client import run_fio
from benchmarks.measure import measure
from benchmarks.servers import CdpServer, Nbdkit, Server
from benchmarks.workloads import FILL, RANDOM_WRITE, Workload

ROOT = Path(__file__).parents[1]
RANDOM_READ = replace(RANDOM_WRITE, name="4k randread QD32", pattern="randread", start="read")
AGE_SECONDS = 1.0
BAR = 0.2


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=512, help="of the small export")
    parser.add_argument(
        "--writes",
        type=int,
        default=750_000,
        help="before anything is measured; ten times as many for the long history",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".cache", help="on the disk to measure; 20 GB with the defaults"
    )
    return parser.parse_args(words)


def age(server: Server, size_bytes: int, writes: int) -> None:
    run_fio(FILL, server.uri, size_bytes, 0)
    written = 0
    while written < writes:
        written += run_fio(RANDOM_WRITE, server.uri, size_bytes, AGE_SECONDS).requests


def ratios(folder: Path, size_bytes: int, writes: int, rounds: int, seconds: float) -> dict[str, float]:
    """Our IOPS by those of nbdkit, median of the rounds, by workload."""
    servers: list[Server] = []
    for kind in (CdpServer, Nbdkit):
        inside = folder / kind.__name__
        inside.mkdir(parents=True)
        servers.append(kind(inside, size_bytes))
    try:
        for server in servers:
            server.start()
            age(server, size_bytes, writes)
        return {load.name: compared(servers, load, size_bytes, rounds, seconds) for load in (RANDOM_WRITE, RANDOM_READ)}
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(folder)


def compared(servers: list[Server], load: Workload, size_bytes: int, rounds: int, seconds: float) -> float:
    figures = []
    for turn in range(rounds):
        # Each goes first in every second round.
        order = servers if turn % 2 else servers[::-1]
        iops = {server.name: measure(server, load, size_bytes, seconds).iops for server in order}
        figures.append(iops[servers[0].name] / iops[servers[1].name])
        print(f"  {load.name}: " + ", ".join(f"{name} {value:,.0f}" for name, value in iops.items()), file=sys.stderr)
    return median(figures)


def main() -> None:
    chosen = arguments()
    size, writes = chosen.size_mib * 2**20, chosen.writes
    chosen.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, bytes_, count in (
        ("small", size, writes),
        ("history x 10", size, 10 * writes),
        ("volume x 10", 10 * size, writes),
    ):
        print(f"{name}: {bytes_ >> 20} MiB, {count:,} writes", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="b-", dir=chosen.folder) as scratch:
            found[name] = ratios(Path(scratch) / "pair", bytes_, count, chosen.rounds, chosen.seconds)
    print("| ours by nbdkit file | small | history x 10 | volume x 10 | |\n|---|--:|--:|--:|---|")
    for load, base in found["small"].items():
        others = [found[name][load] for name in ("history x 10", "volume x 10")]
        held = all(abs(other / base - 1) < BAR for other in others)
        row = " | ".join(f"{value:.2f}" for value in (base, *others))
        print(f"| {load} | {row} | {'held' if held else 'MISSED'} |")


if __name__ == "__main__":
    main()
