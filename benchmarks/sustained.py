"""`python -m benchmarks --sustained [SECONDS]`: random writes of 4 KiB without a pause, history bounded and compaction at work.

A volume with a budget of twice its size beside nbdkit file, each alone for the whole time, one after the other: at the same time they would measure
how two cores are shared. A minute (a tenth of a run shorter than ten) is one figure: the first is the bar for the later ones.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import procfs, report
from benchmarks.client import run_client
from benchmarks.data import Data, pool
from benchmarks.programs import BUILT, program
from benchmarks.rounds import removed
from benchmarks.rows import FILE, OURS
from benchmarks.servers import SERVERS, CdpServer
from benchmarks.verdicts import Verdict
from benchmarks.workloads import FILL, RANDOM_WRITE
from tests.rig.process import run as run_program

MINUTE_SECONDS = 60.0
BUDGET = 2
"""In volumes: 4 GiB for the default of 2 GiB."""
ONLY_EVERY_WRITE = ("--minutes", "0", "--hours", "0", "--days", "0", "--minimum", "0")


@dataclass(frozen=True, slots=True)
class Interval:
    iops: float
    p999_us: float
    max_us: float


@dataclass(frozen=True, slots=True)
class Sustained:
    """One server's run. `cpu_us_per_request` and `disk_bytes_per_byte` hold compaction too."""

    intervals: tuple[Interval, ...]
    p999_us: float
    max_us: float
    cpu_us_per_request: float
    disk_bytes_per_byte: float | None
    peak_memory_mib: float


def run(folder: Path, size_bytes: int, seconds: float, data: Data, target: Path) -> None:
    """Measures both, prints a table and the verdicts, and writes all of it to `target`."""
    found: dict[str, Sustained] = {}
    with tempfile.TemporaryDirectory(prefix="b-", dir=folder) as scratch:
        for name in (OURS, FILE):
            print(f"{name}: {seconds:g} s", file=sys.stderr, flush=True)
            with removed(Path(scratch) / name.replace(" ", "-")) as own:
                found[name] = one_server(name, own, size_bytes, seconds, data)
    judged = verdicts(found[OURS], found[FILE], data)
    told = {
        "machine": report.machine(),
        "settings": {
            "seconds": seconds,
            "size_mib": size_bytes >> 20,
            "budget_mib": BUDGET * size_bytes >> 20,
            "data": data,
        },
        "bars": [asdict(one) for one in judged],
        "results": {name: asdict(one) for name, one in found.items()},
    }
    target.write_text(json.dumps(told, indent=1) + "\n")
    print(table(found), report.bars(judged), f"all figures: {target}", sep="\n\n")


def one_server(name: str, folder: Path, size_bytes: int, seconds: float, data: Data) -> Sustained:
    server = SERVERS[name](folder, size_bytes)
    server.start()
    try:
        if isinstance(server, CdpServer):
            server.cdp("retention", server.volume, "--budget", str(BUDGET * size_bytes), *ONLY_EVERY_WRITE)
        run_client(FILL, data, server.uri, size_bytes, 0)
        procfs.drop_file_cache(folder)
        os.sync()
        procfs.reset_peak_memory(server.pid)
        before, cpu_before = procfs.disk_bytes_written(folder), procfs.cpu_seconds(server.pid)
        interval = min(MINUTE_SECONDS, seconds / 10)
        options = [*RANDOM_WRITE.load_options(server.uri, size_bytes, seconds), f"--interval={interval}"]
        done = run_program(program("load"), *options, f"--pool={pool(data, BUILT)}", seconds=seconds + 600)
        os.sync()
        document = json.loads(done.stdout)
        after = procfs.disk_bytes_written(folder)
        return Sustained(
            intervals=intervals(document, interval),
            p999_us=document["write"]["p999_ns"] / 1000,
            max_us=document["write"]["max_ns"] / 1000,
            cpu_us_per_request=(procfs.cpu_seconds(server.pid) - cpu_before) / document["requests"] * 1e6,
            disk_bytes_per_byte=None if before is None or after is None else (after - before) / document["bytes"],
            peak_memory_mib=procfs.peak_memory_bytes(server.pid) / 2**20,
        )
    finally:
        server.stop()


def intervals(document: dict[str, Any], seconds: float) -> tuple[Interval, ...]:
    return tuple(
        Interval(one["count"] / seconds, one["p999_ns"] / 1000, one["max_ns"] / 1000) for one in document["intervals"]
    )


def verdicts(ours: Sustained, peer: Sustained, data: Data) -> list[Verdict]:
    """The bars: the slowest later minute by the first, p99.9 by the peer's, and the latest reply."""

    def judged(bar: str, one: float, against: float | None, limit: float, *, at_least: bool = False) -> Verdict:
        figure = one if against is None else one / against
        return Verdict("sustained", data, bar, one, against, figure, figure >= limit if at_least else figure <= limit)

    first, *later = [one.iops for one in ours.intervals]
    return [
        judged("slowest minute >= 0.7 x first minute", min(later), first, 0.7, at_least=True),
        judged("mean of later minutes >= 0.7 x first minute", mean(later), first, 0.7, at_least=True),
        judged(f"p99.9 (us) <= 2 x {FILE}", ours.p999_us, peer.p999_us, 2.0),
        judged("latest reply <= 1,000,000 us", ours.max_us, None, 1e6),
    ]


def table(found: dict[str, Sustained]) -> str:
    lines = ["| server | minute | IOPS | p99.9 us | latest us |", "|---|--:|--:|--:|--:|"]
    for name, one in found.items():
        lines += [_line(name, str(at), each) for at, each in enumerate(one.intervals, 1)]
    lines += ["", "| server | p99.9 us | latest us | server CPU us/request | disk bytes/byte | peak MiB |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for name, one in found.items():
        disk = "" if one.disk_bytes_per_byte is None else f"{one.disk_bytes_per_byte:.2f}"
        numbers = f"{one.p999_us:,.0f} | {one.max_us:,.0f} | {one.cpu_us_per_request:.1f} | {disk} | {one.peak_memory_mib:,.0f}"
        lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines)


def _line(name: str, label: str, one: Interval) -> str:
    return f"| {name} | {label} | {one.iops:,.0f} | {one.p999_us:,.0f} | {one.max_us:,.0f} |"
