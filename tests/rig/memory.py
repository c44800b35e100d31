"""What the kernel tells of a process's memory: how much is locked, and whether its threads are marked as part of the way to a disk.

Only a thread itself may ask for its mark (PR_GET_IO_FLUSHER). For others there are the flags in /proc; which of them the mark sets is found out by
setting it, for no interface tells.
"""

from __future__ import annotations

import ctypes
import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PR_SET_IO_FLUSHER, _PR_GET_IO_FLUSHER = 57, 58
"""linux/prctl.h."""


def locked_bytes(pid: int) -> int:
    """VmLck: the address space that is locked, touched or not."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmLck:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"/proc/{pid}/status has no VmLck")


def io_flusher_flags() -> int | None:
    """The flags that PR_SET_IO_FLUSHER sets in a thread; None where this process may not set it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_mark).result()


def thread_flags(pid: int) -> dict[int, int]:
    """The flags of each thread of a process (proc(5), /proc/PID/stat)."""
    return {int(it.name): _flags(it / "stat") for it in Path(f"/proc/{pid}/task").iterdir()}


def _mark() -> int | None:
    """Marks the thread that calls, and takes the mark away again."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = Path("/proc/thread-self/stat")
    zeros = (ctypes.c_ulong(0),) * 3
    if libc.prctl(_PR_SET_IO_FLUSHER, ctypes.c_ulong(1), *zeros) < 0:
        assert ctypes.get_errno() == errno.EPERM
        return None
    marked = _flags(own)
    assert libc.prctl(_PR_GET_IO_FLUSHER, ctypes.c_ulong(0), *zeros) == 1
    assert libc.prctl(_PR_SET_IO_FLUSHER, ctypes.c_ulong(0), *zeros) == 0
    # Against afterwards, not before: the first call also leaves the flag of one who used privileges, which new threads do not inherit.
    gained = marked & ~_flags(own)
    assert gained
    return gained


def _flags(stat: Path) -> int:
    # The name, in brackets, may have spaces and brackets in it.
    return int(stat.read_text().rpartition(")")[2].split()[6])
