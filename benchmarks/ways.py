"""The rows that need more than a load on servers in turn: recovery points while writing, reads of an instant, bytes to disk.

Each way starts servers of its own in the folder it is given and yields a figure for each name that is compared.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import procfs
from benchmarks.client import run_client
from benchmarks.data import Data
from benchmarks.measure import Figures, figures, measure, raw_share
from benchmarks.rows import FRESH, LIVE, OURS, RECYCLED, SNAPSHOTS, VIEW, Row
from benchmarks.servers import CdpServer, Qcow2Snapshots
from benchmarks.workloads import FILL, OVERWRITE, Workload

POINT_SECONDS = 1.0
POINTS_SECONDS_MIN = 6.0
"""A run of less would see too few of them."""
WRITER = Workload("writer", "randwrite", 4096, 4)
WRITER_IOPS = 10_000
"""The load beside reads of a view and of the live volume: the same for both, or the slower reader would meet more of it."""
WRITER_MORE_SECONDS = 120.0
RECYCLED_VOLUME_BYTES = 256 << 20
RECYCLED_BUDGET, RECYCLED_TURNS = 2, 5
"""In volumes: the budget, and what is written before anything is measured, so that all of its space was used more than once."""

Found = Iterator[tuple[str, Figures]]
Way = Callable[[Row, Data, Path, int, float, int], Found]


def recovery(row: Row, kind: Data, folder: Path, size_bytes: int, seconds: float, turn: int) -> Found:
    """A named recovery point a second: a bookmark here, an internal snapshot of a qcow2 image there."""
    kinds: list[tuple[str, type[CdpServer] | type[Qcow2Snapshots]]] = [(OURS, CdpServer), (SNAPSHOTS, Qcow2Snapshots)]
    for name, server_kind in kinds[:: 1 - turn % 2 * 2]:
        made = folder / name.replace(" ", "-")
        made.mkdir()
        server = server_kind(made, size_bytes)
        server.start()
        try:
            run_client(FILL, kind, server.uri, size_bytes, 0)
            with every_second(server.point):
                found = measure(server, row.workload, size_bytes, max(seconds, POINTS_SECONDS_MIN), kind)
        finally:
            server.stop()
        yield name, found


@contextlib.contextmanager
def every_second(point: Callable[[str], None]) -> Iterator[None]:
    """Calls `point` with a new name each second, or as soon as the last one is there. Its error, if any, is raised at the end."""
    ended = threading.Event()
    failed: list[Exception] = []

    def make_points() -> None:
        count = 0
        try:
            while not ended.is_set():
                began = time.monotonic()
                count += 1
                point(f"point-{count}")
                ended.wait(max(0.0, POINT_SECONDS - (time.monotonic() - began)))
        except Exception as error:
            failed.append(error)

    maker = threading.Thread(target=make_points)
    maker.start()
    try:
        yield
    finally:
        ended.set()
        maker.join()
    if failed:
        raise failed[0]


def view(row: Row, kind: Data, folder: Path, size_bytes: int, seconds: float, turn: int) -> Found:
    """Reads of an instant in the past, and of the live volume, while the same writer writes to it."""
    server = CdpServer(folder, size_bytes)
    server.start()
    try:
        run_client(FILL, kind, server.uri, size_bytes, 0)
        run_client(OVERWRITE, kind, server.uri, size_bytes, seconds)
        exports = {VIEW: server.uri_of_now(), LIVE: server.uri}
        run_client(OVERWRITE, kind, server.uri, size_bytes, seconds)
        for name in (VIEW, LIVE) if turn % 2 == 0 else (LIVE, VIEW):
            with writing(server.uri, size_bytes):
                yield name, measure(server, row.workload, size_bytes, seconds, kind, uri=exports[name])
    finally:
        server.stop()


@contextlib.contextmanager
def writing(uri: str, size_bytes: int) -> Iterator[None]:
    """fio writes to the export, at a steady rate, until the end."""
    options = WRITER.fio_options(uri, size_bytes, WRITER_MORE_SECONDS)
    command = ["fio", *options, f"--rate_iops={WRITER_IOPS}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as writer:
        try:
            yield
            assert writer.poll() is None, f"the writer ended with {writer.returncode}"
        finally:
            writer.terminate()


def disk(row: Row, kind: Data, folder: Path, size_bytes: int, seconds: float, turn: int) -> Found:
    """Random writes and an orderly end: all that the disk writes for them, in a new store and in one whose space was used before."""
    size = min(size_bytes, RECYCLED_VOLUME_BYTES)
    for name in (FRESH, RECYCLED):
        own = folder / name.replace(" ", "-")
        own.mkdir()
        server = CdpServer(own, size)
        server.start()
        try:
            if name == RECYCLED:
                recycle(server, kind, size, seconds)
            yield name, measure_to_the_end(server, row.workload, kind, size, seconds)
        finally:
            server.stop()


def recycle(server: CdpServer, kind: Data, size_bytes: int, seconds: float) -> None:
    """Writes until old space is in use again, then lets compaction rest."""
    server.cdp("retention", server.volume, "--budget", str(RECYCLED_BUDGET * size_bytes), "--minimum", "0")
    run_client(FILL, kind, server.uri, size_bytes, 0)
    written = 0
    while written < RECYCLED_TURNS * size_bytes:
        written += run_client(OVERWRITE, kind, server.uri, size_bytes, seconds).bytes
    server.cdp("retention", server.volume, "--budget", "none")


def measure_to_the_end(server: CdpServer, workload: Workload, kind: Data, size_bytes: int, seconds: float) -> Figures:
    """Counts what the disk writes until the server has ended: footers and checkpoints too."""
    procfs.drop_file_cache(server.folder)
    os.sync()
    procfs.reset_peak_memory(server.pid)
    raw_before, before, cpu_before = (
        server.stored_raw(),
        procfs.disk_bytes_written(server.folder),
        procfs.cpu_seconds(server.pid),
    )
    client = run_client(workload, kind, server.uri, size_bytes, seconds)
    cpu, peak = procfs.cpu_seconds(server.pid) - cpu_before, procfs.peak_memory_bytes(server.pid)
    raw = raw_share(raw_before, server.stored_raw())
    server.stop()
    os.sync()
    after = procfs.disk_bytes_written(server.folder)
    written = None if before is None or after is None else after - before
    return figures(client, cpu_seconds=cpu, disk_bytes=written, peak_memory_bytes=peak, stored_raw=raw)


WAYS: dict[str, Way] = {"recovery": recovery, "view": view, "disk": disk}
