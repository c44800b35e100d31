"""Runs fio and keeps the few figures of its JSON that are reported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.workloads import Workload
from tests.rig.process import run

NANOSECONDS_IN_MICROSECOND = 1000.0


@dataclass(frozen=True, slots=True)
class FioFigures:
    """Latencies are those of the request that the client waits for: the flush where each write is followed by one."""

    requests: int
    bytes: int
    iops: float
    bytes_per_second: float
    p50_us: float
    p99_us: float


def run_fio(workload: Workload, uri: str, size_bytes: int, seconds: float, *, core: int | None = None) -> FioFigures:
    """One run to its end, on `core` alone if given. ProgramFailed, with fio's output, if it meets an error."""
    pin = [] if core is None else ["taskset", "-c", str(core)]
    options = workload.fio_options(uri, size_bytes, seconds)
    done = run(*pin, "fio", "--output-format=json", *options, seconds=seconds + 120)
    # fio may print notes before its document.
    return _figures(json.loads(done.stdout[done.stdout.index("{") :]), workload)


def fill(workload: Workload, uri: str, size_bytes: int) -> None:
    """Writes the export from end to end, once."""
    options = [word for word in workload.fio_options(uri, size_bytes, 0) if word[:9] not in ("--runtime", "--time_ba")]
    run("fio", "--output-format=json", *options, "--end_fsync=1", seconds=600)


def _figures(document: dict[str, Any], workload: Workload) -> FioFigures:
    job = document["jobs"][0]
    side = job[workload.direction]
    waited = job["sync"]["lat_ns"] if workload.flush_each else side["clat_ns"]
    return FioFigures(
        requests=side["total_ios"] + (job["sync"]["total_ios"] if workload.flush_each else 0),
        bytes=side["io_bytes"],
        iops=side["iops"],
        bytes_per_second=side["bw_bytes"],
        p50_us=waited["percentile"]["50.000000"] / NANOSECONDS_IN_MICROSECOND,
        p99_us=waited["percentile"]["99.000000"] / NANOSECONDS_IN_MICROSECOND,
    )
