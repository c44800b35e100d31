"""One measurement: one workload on one running server, with what it cost."""

from __future__ import annotations

import os
from dataclasses import dataclass

from benchmarks import procfs
from benchmarks.client import ClientFigures, run_client, run_fio
from benchmarks.data import Data
from benchmarks.servers import Server
from benchmarks.workloads import OVERWRITE, READ_PASS, Workload


@dataclass(frozen=True, slots=True)
class Figures:
    """`disk_bytes_per_byte`: bytes that the device wrote, up to a sync after the run, by byte received; None for reads and without a device.
    `stored_raw`: the share of payloads that were stored without compression, None where the server does not tell."""

    iops: float
    mib_per_second: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    cpu_us_per_request: float
    disk_bytes_per_byte: float | None
    peak_memory_mib: float
    stored_raw: float | None = None


def prepare(server: Server, workload: Workload, size_bytes: int, seconds: float, uri: str) -> None:
    """Brings the export, and the page cache of the server's files, into the state that the workload starts from."""
    if workload.overwritten and not server.overwritten:
        run_fio(OVERWRITE, uri, size_bytes, seconds)
    server.overwritten |= workload.overwritten or workload.pattern in ("randwrite", "randrw")
    procfs.drop_file_cache(server.folder)
    if workload.start != "dropped":
        run_fio(READ_PASS, uri, size_bytes, seconds)
    os.sync()


def measure(
    server: Server,
    workload: Workload,
    size_bytes: int,
    seconds: float,
    data: Data = "half",
    *,
    uri: str | None = None,
) -> Figures:
    """Prepares, runs, and looks at the server's process and at the disk before and after. `uri`: another export of the server."""
    uri = uri or server.uri
    prepare(server, workload, size_bytes, seconds, uri)
    cores = os.sched_getaffinity(server.pid)
    core = min(cores) if workload.pinned else None
    if core is not None:
        procfs.pin(server.pid, {core})
    procfs.reset_peak_memory(server.pid)
    raw_before = server.stored_raw()
    disk_before, cpu_before = procfs.disk_bytes_written(server.folder), procfs.cpu_seconds(server.pid)
    try:
        client = run_client(workload, data, uri, size_bytes, seconds, core=core)
    finally:
        procfs.pin(server.pid, cores)
    os.sync()
    cpu, disk = procfs.cpu_seconds(server.pid) - cpu_before, procfs.disk_bytes_written(server.folder)
    written = None if disk is None or disk_before is None or workload.direction != "write" else disk - disk_before
    return figures(
        client,
        cpu_seconds=cpu,
        disk_bytes=written,
        peak_memory_bytes=procfs.peak_memory_bytes(server.pid),
        stored_raw=None if workload.direction == "read" else raw_share(raw_before, server.stored_raw()),
    )


def figures(
    client: ClientFigures,
    *,
    cpu_seconds: float,
    disk_bytes: int | None,
    peak_memory_bytes: int,
    stored_raw: float | None = None,
) -> Figures:
    return Figures(
        iops=client.iops,
        mib_per_second=client.bytes_per_second / 2**20,
        p50_us=client.p50_us,
        p99_us=client.p99_us,
        p999_us=client.p999_us,
        max_us=client.max_us,
        cpu_us_per_request=cpu_seconds / client.requests * 1e6,
        disk_bytes_per_byte=None if disk_bytes is None else disk_bytes / client.bytes,
        peak_memory_mib=peak_memory_bytes / 2**20,
        stored_raw=stored_raw,
    )


def raw_share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Of what was stored between two looks at (payloads stored raw, all payloads); None where nothing is known or nothing was stored."""
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
