"""The figures of the benchmarks: what is read from the kernel and from fio, and how rounds are summed up."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from benchmarks import procfs, report
from benchmarks.fio import run_fio
from benchmarks.measure import Figures
from benchmarks.servers import Nbdkit
from benchmarks.workloads import WORKLOADS, Workload


def figures(iops: float, disk: float | None = None) -> Figures:
    return Figures(iops, 1.0, 2.0, 3.0, 4.0, disk, 5.0)


def test_a_median_is_taken_figure_by_figure() -> None:
    summed = report.medians([figures(10, 1.0), figures(30, None), figures(20, 3.0)])
    assert summed == figures(20, 2.0)


def test_a_figure_that_no_round_has_stays_unknown() -> None:
    assert report.medians([figures(1), figures(2)]).disk_bytes_per_byte is None
    assert report.row("w", "s", figures(1234)) == "| w | s | 1,234 | 1 | 2 | 3 | 4.0 |  | 5 |"


def test_the_document_holds_every_round() -> None:
    document = json.loads(report.document({("w", "s"): [figures(1), figures(3)]}, {"rounds": 2}))
    assert [found["iops"] for found in document["results"][0]["rounds"]] == [1, 3]
    assert document["results"][0]["median"]["iops"] == 2


def test_cpu_time_of_this_process_is_what_python_says() -> None:
    before = procfs.cpu_seconds(os.getpid())
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass
    spent = time.process_time() - began
    assert procfs.cpu_seconds(os.getpid()) - before == pytest.approx(spent, abs=3 / procfs.TICKS_PER_SECOND)


def test_peak_memory_forgets_what_was_before() -> None:
    large = bytearray(os.urandom(1)) * (64 << 20)
    high = procfs.peak_memory_bytes(os.getpid())
    del large
    procfs.reset_peak_memory(os.getpid())
    assert procfs.peak_memory_bytes(os.getpid()) < high


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_fio_takes_every_workload(workload: Workload, tmp_path: Path) -> None:
    server = Nbdkit(tmp_path, 8 << 20)
    server.start()
    try:
        figures = run_fio(workload, server.uri, 8 << 20, 0.2)
    finally:
        server.stop()
    assert figures.bytes >= workload.block_bytes
    assert figures.requests >= figures.bytes // workload.block_bytes
    assert 0 < figures.p50_us <= figures.p99_us
