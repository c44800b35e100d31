"""What is measured: each workload is one fio run of the nbd engine against one export.

Data is half compressible unless a workload says otherwise, and differs from write to write, so neither compression nor deduplication is flattered.
Queue depth 1 runs with client and server pinned to one core: on two cores it measures how long an idle core takes to wake up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    pattern: Literal["write", "randwrite", "randread"]
    block_bytes: int
    depth: int
    connections: int = 1
    flush_each: bool = False
    pinned: bool = False
    compressible_percent: int = 50

    @property
    def direction(self) -> Direction:
        return "read" if self.pattern == "randread" else "write"

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
            f"--size={size_bytes}",
            f"--runtime={seconds}",
            "--time_based",
            "--norandommap",
            "--randseed=1",
            "--refill_buffers",
            f"--buffer_compress_percentage={self.compressible_percent}",
            "--group_reporting",
        ]
        return options + (["--fsync=1"] if self.flush_each else [])


FILL = Workload("fill 128k", "write", 131072, 16)
"""Not measured: every block of the export is written once before the first round."""

WORKLOADS = (
    Workload("4k randwrite QD32", "randwrite", 4096, 32),
    Workload("4k randwrite QD8 x4 conn", "randwrite", 4096, 8, connections=4),
    Workload("4k randwrite QD1 one core", "randwrite", 4096, 1, pinned=True),
    Workload("4k randwrite + flush", "randwrite", 4096, 1, flush_each=True),
    Workload("4k randread QD32", "randread", 4096, 32),
    Workload("128k write QD16", "write", 131072, 16),
)
