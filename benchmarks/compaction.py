"""`python -m benchmarks.compaction`: steady random writes over NBD, with history bounded and compaction at work, beside history that grows.

Both are a daemon of this project with one volume, written once from end to end. The one has a budget of so many times the volume and keeps every write for as long as
that fits; it is written until compaction is in its steady state before anything is measured. The other has none, and begins anew in each round: it must not
fill the disk. Rounds alternate. The data does not compress.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.client import run_fio
from benchmarks.measure import Figures, measure
from benchmarks.servers import CdpServer
from benchmarks.verdicts import medians
from benchmarks.workloads import FILL, Workload

ROOT = Path(__file__).parents[1]
AGE_SECONDS = 2.0
"""Of one look at whether the volume has been written `--turns` times."""
ONLY_EVERY_WRITE = ("--minutes", "0", "--hours", "0", "--days", "0", "--minimum", "0")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compaction", description=__doc__)
    parser.add_argument("--budget", type=float, default=2.0, help="in volumes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--size-mib", type=int, default=1024, help="of each volume")
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3, help="how often the bounded volume is written before")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache", help="on the disk to measure")
    return parser.parse_args(words)


@contextlib.contextmanager
def volume(folder: Path, size_bytes: int, budget: int | None) -> Iterator[CdpServer]:
    """A daemon with a volume that was written once. Stopped and removed at the end."""
    folder.mkdir()
    server = CdpServer(folder, size_bytes)
    server.start()
    try:
        if budget is not None:
            server.cdp("retention", "bench", "--budget", str(budget), *ONLY_EVERY_WRITE)
        run_fio(replace(FILL, compressible_percent=0), server.uri, size_bytes, 0)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def age(server: CdpServer, load: Workload, size_bytes: int, turns: int) -> None:
    written = 0
    while written < turns * size_bytes:
        written += run_fio(load, server.uri, size_bytes, AGE_SECONDS).bytes


def main() -> None:
    chosen = arguments()
    size_bytes = chosen.size_mib * 2**20
    load = Workload(f"4k randwrite QD{chosen.depth}", "randwrite", 4096, chosen.depth, compressible_percent=0)
    results: dict[tuple[str, str], list[Figures]] = {(load.name, "bounded"): [], (load.name, "grown"): []}
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="b-", dir=chosen.folder) as scratch:
        folder = Path(scratch)
        with volume(folder / "bounded", size_bytes, int(size_bytes * chosen.budget)) as bounded:
            age(bounded, load, size_bytes, chosen.turns)
            for turn in range(chosen.rounds):
                with volume(folder / "grown", size_bytes, None) as grown:
                    # Each goes first in every second round.
                    for server in (bounded, grown) if turn % 2 else (grown, bounded):
                        name = server.folder.name
                        figures = measure(server, load, size_bytes, chosen.seconds)
                        results[load.name, name].append(figures)
                        print(report.row(load.name, name, figures), file=sys.stderr, flush=True)
    rows = [report.row(workload, name, medians(rounds)) for (workload, name), rounds in results.items()]
    print("\n".join((*report.HEADER, *rows)))
    pairs = zip(results[load.name, "bounded"], results[load.name, "grown"], strict=True)
    print(f"bounded / grown, median of the rounds: {median(one.iops / other.iops for one, other in pairs):.2f}")


if __name__ == "__main__":
    main()
