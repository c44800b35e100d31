"""The daemon's memory while the kernel may write dirty pages through it.

The kernel frees memory by writing to block devices. Where the daemon is behind one, its own allocations must not wait for that: it says that it
is part of the way to a disk (PR_SET_IO_FLUSHER), and keeps its pages in memory. Both need privileges; without them it works, but for the rare
machine that has no memory left. What was refused is told when it begins to matter, with the first device, and once.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("cdp.attach")

_PR_SET_IO_FLUSHER = 57
"""linux/prctl.h, since 5.6. Of a thread, and of those that it starts."""
_CAP_IPC_LOCK = 14
"""linux/capability.h."""
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
"""sys/mman.h. On fault: reserved address space that nobody touched takes no memory."""

_untold: list[str] = []
_told: set[str] = set()
"""What was refused in this process."""


def become_io_flusher() -> None:
    """For the thread that calls and those that it starts later, and for the programs that they start."""
    if os.geteuid() == 0:
        _call("PR_SET_IO_FLUSHER (CAP_SYS_RESOURCE)", "prctl", _PR_SET_IO_FLUSHER, 1, 0, 0, 0)


def lock() -> None:
    """What is in memory stays there, and what comes; not where a bound on locked memory would make allocations fail."""
    bound = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if bound != resource.RLIM_INFINITY and not _may_lock():
        _refused(f"mlockall: left out, for RLIMIT_MEMLOCK is {bound} bytes")
    else:
        _call("mlockall (CAP_IPC_LOCK)", "mlockall", _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    while _untold:
        log.warning("a machine that runs out of memory may hang on an attached device: %s", _untold.pop())


def unlock() -> None:
    """Ends what `lock` began."""
    _call("munlockall", "munlockall")


def _may_lock() -> bool:
    """Whether the bound does not count for this process (CAP_IPC_LOCK)."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def _call(what: str, function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # prctl takes longs in its place of variable arguments.
    passed = [ctypes.c_ulong(argument) for argument in arguments]
    if getattr(libc, function)(*passed) < 0:
        _refused(f"{what}: {os.strerror(ctypes.get_errno())}")


def _refused(what: str) -> None:
    if what not in _told:
        _told.add(what)
        _untold.append(what)
