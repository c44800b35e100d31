"""One measurement: one workload on one running server, with what it cost."""

from __future__ import annotations

import os
from dataclasses import dataclass

from benchmarks import procfs
from benchmarks.fio import run_fio
from benchmarks.servers import Server
from benchmarks.workloads import Workload


@dataclass(frozen=True, slots=True)
class Figures:
    """`disk_bytes_per_byte`: bytes that the device wrote, up to a sync after the run, by byte received; None for reads and without a device."""

    iops: float
    mib_per_second: float
    p50_us: float
    p99_us: float
    cpu_us_per_request: float
    disk_bytes_per_byte: float | None
    peak_memory_mib: float


def measure(server: Server, workload: Workload, size_bytes: int, seconds: float) -> Figures:
    """Starts from an empty page cache of the server's files for writes; reads find what the last run left cached."""
    if workload.direction == "write":
        procfs.drop_file_cache(server.folder)
    os.sync()
    cores = os.sched_getaffinity(server.pid)
    core = min(cores) if workload.pinned else None
    if core is not None:
        procfs.pin(server.pid, {core})
    procfs.reset_peak_memory(server.pid)
    disk_before, cpu_before = procfs.disk_bytes_written(server.folder), procfs.cpu_seconds(server.pid)
    try:
        fio = run_fio(workload, server.uri, size_bytes, seconds, core=core)
    finally:
        procfs.pin(server.pid, cores)
    os.sync()
    cpu, disk = procfs.cpu_seconds(server.pid) - cpu_before, procfs.disk_bytes_written(server.folder)
    written = None if disk is None or disk_before is None or workload.direction == "read" else disk - disk_before
    return Figures(
        iops=fio.iops,
        mib_per_second=fio.bytes_per_second / 2**20,
        p50_us=fio.p50_us,
        p99_us=fio.p99_us,
        cpu_us_per_request=cpu / fio.requests * 1e6,
        disk_bytes_per_byte=None if written is None else written / fio.bytes,
        peak_memory_mib=procfs.peak_memory_bytes(server.pid) / 2**20,
    )
