"""What the kernel knows about a server and its disk: CPU time, peak memory, bytes written to the device.

Bytes come from the block device and not from /proc/PID/io, whose write_bytes counts dirtied pages, not what reached the disk.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SECTOR_BYTES = 512
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, also of those that ended."""
    # The second field is the program's name in brackets and may hold anything, so fields are counted from its end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def reset_peak_memory(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory_bytes(pid: int) -> int:
    """The largest resident size since `reset_peak_memory`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"process {pid} has no VmHWM")


def pin(pid: int, cores: set[int]) -> None:
    """Moves all threads that a process has now; later ones inherit from the thread that starts them."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # A thread that ended since needs no place to run.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def disk_bytes_written(folder: Path) -> int | None:
    """Bytes that the block device under `folder` ever wrote; None where it has no single device (overlay, network, tmpfs)."""
    device = folder.stat().st_dev
    statistics = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(statistics.read_text().split()[6]) * SECTOR_BYTES if statistics.exists() else None


def drop_file_cache(folder: Path) -> None:
    """Writes back and forgets the cached pages of every file under `folder`.

    A cache that was filled by large reads holds large folios, and overwriting 4 KiB of those costs ten times as much: no fair start.
    """
    for path in (path for path in folder.rglob("*") if path.is_file()):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # the server may replace its files meanwhile
            continue
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
