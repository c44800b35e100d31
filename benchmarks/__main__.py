"""`python -m benchmarks`: measures every server in every round, in turn, and prints medians, ratios, and which bars hold.

docs/benchmarks.md says what is held still, what is noisy, and how to repeat a figure. Everything is made in one folder on one disk and removed
at the end, whatever happens.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import chart, limits, report, sustained
from benchmarks.data import KINDS, Data
from benchmarks.measure import Figures
from benchmarks.rounds import Plan, run_round
from benchmarks.rows import BY_KEY, ROWS
from benchmarks.servers import SERVERS
from benchmarks.verdicts import Key, Limits, Results, verdicts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="512 MiB, 1 round of 0.6 s a workload: a look, not a measurement")
    add("--only", default="", metavar="ROW[,ROW]", help="rows by their key (see --list)")
    add("--list", action="store_true", help="print the rows and their bars, and measure nothing")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=4.0, help="of each run")
    add("--size-mib", type=int, default=2048, help="of each export")
    add("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), metavar="SERVER", help=", ".join(SERVERS))
    add("--data", nargs="+", choices=KINDS, default=list(KINDS))
    add("--folder", type=Path, default=ROOT / ".cache", help="on the disk to measure")
    add("--json", type=Path, help="default: benchmarks/results/TIME.json")
    add("--svg", type=Path, help="default: beside the JSON")
    add(
        "--sustained",
        type=float,
        nargs="?",
        const=600.0,
        metavar="SECONDS",
        help="only the sustained load, for so long",
    )
    chosen = parser.parse_args(words)
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.size_mib = 1, 0.6, 512
    unknown = [key for key in filter(None, chosen.only.split(",")) if key not in BY_KEY]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)} (rows: {', '.join(BY_KEY)})")
    return chosen


def plan_of(chosen: argparse.Namespace) -> Plan:
    keys = [key for key in chosen.only.split(",") if key] or list(BY_KEY)
    # A bar may compare with another row: --only of the one measures that row too.
    needed = {of.row for key in keys for bar in BY_KEY[key].bars for of in bar.against if of.row in BY_KEY}
    rows = [row for row in ROWS if row.key in keys or row.key in needed]
    data: list[Data] = [kind for kind in KINDS if kind in chosen.data]
    return Plan(rows, chosen.servers, data, chosen.seconds, chosen.size_mib << 20)


def measure_rounds(chosen: argparse.Namespace, plan: Plan, target: Path) -> None:
    """Tells what was measured also where a round fails: half an hour of figures is not thrown away."""
    results: dict[Key, list[Figures]] = {}
    seen: list[dict[str, float]] = []
    began = datetime.now(UTC)

    def told(key: Key, figures: Figures) -> None:
        results.setdefault(key, []).append(figures)
        print(report.row(f"{key[0]}, {key[1]}", key[2], figures), file=sys.stderr, flush=True)

    settings: dict[str, float] = {"rounds": chosen.rounds, "seconds": chosen.seconds, "size_mib": chosen.size_mib}
    load_before = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="b-", dir=chosen.folder) as scratch:
            for turn in range(chosen.rounds):
                folder = Path(scratch) / str(turn)
                folder.mkdir()
                seen.append(run_round(plan, turn, folder, told))
    finally:
        took = (datetime.now(UTC) - began).total_seconds()
        settings |= {"took_seconds": round(took), "load_average_before": load_before}
        tell(chosen, plan, target, settings, results, limits.medians(seen))


def tell(
    chosen: argparse.Namespace,
    plan: Plan,
    target: Path,
    settings: Mapping[str, float],
    results: Results,
    machine_limits: Limits,
) -> None:
    """Writes the JSON and the picture, prints the tables."""
    target.write_text(report.document(plan.rows, results, machine_limits, settings))
    note = f"{datetime.now(UTC):%Y-%m-%d}, medians of {chosen.rounds} rounds of {chosen.seconds:g} s, half-compressible data"
    picture = chosen.svg or target.with_suffix(".svg")
    picture.write_text(chart.svg(chart.ratios(plan.rows, results), note))
    for part in (
        report.details(results),
        report.limits_table(machine_limits),
        report.comparison(plan.rows, results),
        report.bars(verdicts(plan.rows, results, machine_limits)),
    ):
        print(part, end="\n\n")
    print(
        f"{settings['took_seconds']} s; load average before: {settings['load_average_before']:.2f}; "
        f"all rounds: {target}; picture: {picture}"
    )


def list_rows() -> None:
    for row in ROWS:
        print(f"{row.key:20} {row.title} ({', '.join(row.data)})")
        for bar in row.bars:
            print(f"{'':24}{bar.data}: {bar}")


def main() -> None:
    chosen = arguments()
    if chosen.list:
        list_rows()
        return
    chosen.folder.mkdir(parents=True, exist_ok=True)
    target = chosen.json or RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    if chosen.sustained is not None:
        sustained.run(chosen.folder, chosen.size_mib << 20, chosen.sustained, chosen.data[0], target)
    else:
        measure_rounds(chosen, plan_of(chosen), target)


if __name__ == "__main__":
    main()
