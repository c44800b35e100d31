"""One run of a client against an export, by fio or by `load`, and the few figures of its JSON that are reported.

fio makes data of its own, `half`; its pattern files are cut to 512 bytes, so the other kinds come from `load`. Both are clients of libnbd.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import Data, pool
from benchmarks.programs import BUILT, program
from benchmarks.workloads import Workload
from tests.rig.process import run

NANOSECONDS_IN_MICROSECOND = 1000.0
SECONDS_MORE = 120.0
"""A run may take so much longer than asked for: a flush at the end, or `once` on a slow disk."""


@dataclass(frozen=True, slots=True)
class ClientFigures:
    """`requests` counts flushes too, `iops` does not. Latencies are those of the request that the client waits for: the flush where each write is
    followed by one, the reads of a mix."""

    requests: int
    bytes: int
    iops: float
    bytes_per_second: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


def run_client(
    workload: Workload, data: Data, uri: str, size_bytes: int, seconds: float, *, core: int | None = None
) -> ClientFigures:
    """One run to its end with data of this kind, on `core` alone if given. ProgramFailed, with all output, if it meets an error."""
    if data == "half":
        return run_fio(workload, uri, size_bytes, seconds, core=core)
    return run_load(workload, pool(data, BUILT), uri, size_bytes, seconds, core=core)


def run_fio(workload: Workload, uri: str, size_bytes: int, seconds: float, *, core: int | None = None) -> ClientFigures:
    options = workload.fio_options(uri, size_bytes, seconds)
    done = run(*_pin(core), "fio", "--output-format=json", *options, seconds=seconds + SECONDS_MORE)
    # fio may print notes before its document.
    return fio_figures(json.loads(done.stdout[done.stdout.index("{") :]), workload)


def run_load(
    workload: Workload, data: Path, uri: str, size_bytes: int, seconds: float, *, core: int | None = None
) -> ClientFigures:
    options = [*workload.load_options(uri, size_bytes, seconds), f"--pool={data}"]
    done = run(*_pin(core), program("load"), *options, seconds=seconds + SECONDS_MORE)
    return load_figures(json.loads(done.stdout), workload)


def _pin(core: int | None) -> list[str]:
    return [] if core is None else ["taskset", "-c", str(core)]


def fio_figures(document: dict[str, Any], workload: Workload) -> ClientFigures:
    job = document["jobs"][0]
    sides = [job[name] for name in ("read", "write") if job[name]["total_ios"]]
    waited = job["sync"]["lat_ns"] if workload.flush_each else sides[0]["clat_ns"]
    shown = waited["percentile"]
    return ClientFigures(
        requests=sum(side["total_ios"] for side in sides) + (job["sync"]["total_ios"] if workload.flush_each else 0),
        bytes=sum(side["io_bytes"] for side in sides),
        iops=sum(side["iops"] for side in sides),
        bytes_per_second=sum(side["bw_bytes"] for side in sides),
        p50_us=shown["50.000000"] / NANOSECONDS_IN_MICROSECOND,
        p99_us=shown["99.000000"] / NANOSECONDS_IN_MICROSECOND,
        p999_us=shown["99.900000"] / NANOSECONDS_IN_MICROSECOND,
        max_us=waited["max"] / NANOSECONDS_IN_MICROSECOND,
    )


def load_figures(document: dict[str, Any], workload: Workload) -> ClientFigures:
    waited = document["flush" if workload.flush_each else "write" if workload.direction == "write" else "read"]
    return ClientFigures(
        requests=document["requests"] + (document["flush"]["count"] if workload.flush_each else 0),
        bytes=document["bytes"],
        iops=document["requests"] / document["seconds"],
        bytes_per_second=document["bytes"] / document["seconds"],
        p50_us=waited["p50_ns"] / NANOSECONDS_IN_MICROSECOND,
        p99_us=waited["p99_ns"] / NANOSECONDS_IN_MICROSECOND,
        p999_us=waited["p999_ns"] / NANOSECONDS_IN_MICROSECOND,
        max_us=waited["max_ns"] / NANOSECONDS_IN_MICROSECOND,
    )
