"""What a client does: one workload is one run of fio's nbd engine, or of `load`, against one export.

Queue depth 1 runs with client and server pinned to one core: on two cores it measures how long an idle core takes to wake up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pattern = Literal["write", "randwrite", "read", "randread", "randrw"]
Start = Literal["dropped", "read"]
"""What the page cache holds of the server's files when the clock starts: nothing, or all that one read of the export left in it."""
SECTOR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Workload:
    """`connections` have `depth` requests in flight each. `once`: each block of the export once, however long it takes, and not for a time.
    `overwritten`: the export was written at random since it was filled, by this row or by one before it."""

    name: str
    pattern: Pattern
    block_bytes: int
    depth: int
    connections: int = 1
    flush_each: bool = False
    end_flush: bool = False
    once: bool = False
    pinned: bool = False
    shift_bytes: int = 0
    read_percent: int = 70
    start: Start = "dropped"
    overwritten: bool = False
    compressible_percent: int = 50

    @property
    def direction(self) -> Literal["read", "write", "mix"]:
        if self.pattern == "randrw":
            return "mix"
        return "read" if self.pattern in ("read", "randread") else "write"

    def fio_options(self, uri: str, size_bytes: int, seconds: float) -> list[str]:
        """fio's options for `seconds` of this load; the same blocks are met by every server, since the seed is fixed."""
        options = [
            f"--name={self.name.replace(' ', '-')}",
            "--ioengine=nbd",
            f"--uri={uri}",
            f"--rw={self.pattern}",
            f"--bs={self.block_bytes}",
            f"--iodepth={self.depth}",
            f"--numjobs={self.connections}",
            f"--size={size_bytes - (SECTOR_BYTES if self.shift_bytes else 0)}",
            f"--offset={self.shift_bytes}",
            "--randseed=1",
            "--refill_buffers",
            f"--buffer_compress_percentage={self.compressible_percent}",
            "--group_reporting",
            "--percentile_list=50:99:99.9",
        ]
        options += [] if self.once else [f"--runtime={seconds}", "--time_based", "--norandommap"]
        options += [f"--rwmixread={self.read_percent}"] if self.pattern == "randrw" else []
        # Over nbd only `fsync` and `end_fsync` send a FLUSH: `fdatasync` fails, and `sync` does nothing.
        return options + ["--fsync=1"] * self.flush_each + ["--end_fsync=1"] * self.end_flush

    def load_options(self, uri: str, size_bytes: int, seconds: float) -> list[str]:
        """The same for `load` (benchmarks/c/load.c), without its data."""
        options = [f"--uri={uri}", f"--size={size_bytes}", f"--pattern={self.pattern}", f"--block={self.block_bytes}"]
        options += [f"--depth={self.depth}", f"--connections={self.connections}", f"--shift={self.shift_bytes}"]
        options += ["--once"] if self.once else [f"--seconds={seconds}"]
        options += [f"--read-percent={self.read_percent}"] if self.pattern == "randrw" else []
        return options + ["--flush-each"] * self.flush_each + ["--end-flush"] * self.end_flush


FILL = Workload("fill 128k", "write", 131072, 16, once=True, end_flush=True)
"""Not measured: every block of the export is written once before anything is."""
READ_PASS = Workload("read pass", "read", 1 << 20, 8, once=True)
"""Not measured: every block is read once, in large requests, as a backup or a check would."""
RANDOM_WRITE = Workload("4k randwrite QD32", "randwrite", 4096, 32)
OVERWRITE = RANDOM_WRITE
"""Not measured: what leaves an export in the state of a disk in use."""
