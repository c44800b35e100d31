"""`python -m benchmarks`: measures every server in every round, in turn, and prints the medians.

Servers are interleaved workload by workload, and their order turns from round to round: a disk or a neighbour that slows down meets all alike.
Everything is made in one folder on one disk and removed at the end, whatever happens.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.fio import fill
from benchmarks.measure import Figures, measure
from benchmarks.servers import SERVERS, Server
from benchmarks.workloads import FILL, WORKLOADS

ROOT = Path(__file__).parents[1]


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="512 MiB, 1 round of 2 s a workload: a look, not a measurement"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--size-mib", type=int, default=2048, help="of each export")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--workloads", default="", help="only those whose name contains this")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache", help="on the disk to measure")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/TIME.json")
    chosen = parser.parse_args(words)
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.size_mib = 1, 2.0, 512
    return chosen


@contextlib.contextmanager
def running(names: list[str], folder: Path, size_bytes: int) -> Iterator[list[Server]]:
    """All servers started and their exports filled; stopped, and their files removed, at the end."""
    with contextlib.ExitStack() as cleanup:
        servers: list[Server] = []
        for name in names:
            made = folder / name.split()[0]
            made.mkdir()
            server: Server = SERVERS[name](made, size_bytes)
            server.start()
            cleanup.callback(server.stop)
            fill(FILL, server.uri, size_bytes)
            servers.append(server)
        yield servers


def run_rounds(chosen: argparse.Namespace, scratch: Path) -> dict[tuple[str, str], list[Figures]]:
    size_bytes = chosen.size_mib * 2**20
    workloads = [workload for workload in WORKLOADS if chosen.workloads in workload.name]
    results: dict[tuple[str, str], list[Figures]] = {(w.name, name): [] for w in workloads for name in chosen.servers}
    for turn in range(chosen.rounds):
        folder = scratch / str(turn)
        folder.mkdir()
        first = turn % len(chosen.servers)
        with running(chosen.servers[first:] + chosen.servers[:first], folder, size_bytes) as servers:
            for workload in workloads:
                for server in servers:
                    figures = measure(server, workload, size_bytes, chosen.seconds)
                    results[workload.name, server.name].append(figures)
                    print(report.row(workload.name, server.name, figures), file=sys.stderr, flush=True)
    return results


def main() -> None:
    chosen = arguments()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="b-", dir=chosen.folder) as scratch:
        results = run_rounds(chosen, Path(scratch))
    settings = {"rounds": chosen.rounds, "seconds": chosen.seconds, "size_mib": chosen.size_mib}
    target = chosen.json or ROOT / "benchmarks" / "results" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(report.document(results, settings))
    print(report.table(results))
    print()
    for peer in chosen.servers[1:]:
        print(report.ratios(results, chosen.servers[0], peer))
    print(f"all rounds: {target}")


if __name__ == "__main__":
    main()
