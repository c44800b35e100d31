"""The rows of the report, as data: what is run, on which servers, and the bars that must be seen to hold.

A row with a workload is run by `benchmarks.rounds`; the others name their own way of measuring. Bars are about medians of one interleaved run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.data import KINDS, Data
from benchmarks.workloads import RANDOM_WRITE, Workload

OURS = "cdp"
FILE, NULL, RAW, QCOW2 = "nbdkit file", "nbdkit null", "qemu-nbd raw", "qemu-nbd qcow2"
SNAPSHOTS, VIEW, LIVE = "qcow2 snapshots", "cdp view", "cdp live"
FRESH, RECYCLED = "cdp fresh", "cdp recycled"
LIMITS = "limits"
Measure = Literal["iops", "mib_per_second", "cpu_us_per_request", "disk_bytes_per_byte", "p999_us", "max_us"]


@dataclass(frozen=True, slots=True)
class Of:
    """A figure to compare with: of a server in this row or another, or (`server` LIMITS) a limit of the machine by its name in `row`."""

    server: str
    row: str = ""

    def __str__(self) -> str:
        return self.row if self.server == LIMITS else f"{self.server}{f' of {self.row}' if self.row else ''}"


@dataclass(frozen=True, slots=True)
class Bar:
    """`ours`, by the best of `against` (by 1 where there is nothing), is to be at least or at most so much."""

    limit: float
    kind: Literal["at least", "at most"] = "at least"
    against: tuple[Of, ...] = ()
    measure: Measure = "iops"
    data: Data = "half"
    ours: str = OURS

    def __str__(self) -> str:
        sign = ">=" if self.kind == "at least" else "<="
        if self.against:
            return f"{sign} {self.limit:g} x {' / '.join(map(str, self.against))}"
        return f"{sign} {self.limit:g} {UNITS[self.measure]}{f' ({self.ours})' if self.ours != OURS else ''}"


UNITS: dict[Measure, str] = {
    "iops": "requests/s",
    "mib_per_second": "MiB/s",
    "cpu_us_per_request": "us of CPU a request",
    "disk_bytes_per_byte": "bytes to disk a byte",
    "p999_us": "us, p99.9",
    "max_us": "us, latest reply",
}


def at_least(limit: float, *servers: str, data: Data = "half") -> Bar:
    return Bar(limit, against=tuple(map(Of, servers)), data=data)


@dataclass(frozen=True, slots=True)
class Row:
    """`peers` are measured beside this project's server: all of them with `half`, the first alone with other data."""

    key: str
    title: str
    workload: Workload
    peers: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()
    data: tuple[Data, ...] = ("half",)
    way: Literal["load", "recovery", "view", "disk"] = "load"

    def servers(self, data: Data) -> tuple[str, ...]:
        ours = {"load": (OURS,), "recovery": (OURS,), "view": (VIEW, LIVE), "disk": (FRESH, RECYCLED)}[self.way]
        return ours + (self.peers if data == "half" else self.peers[:1])


EVERY = (FILE, NULL, RAW, QCOW2)

ROWS = (
    Row(
        "seqread",
        "1 MiB sequential read, QD 8, as written",
        Workload("1m read QD8", "read", 1 << 20, 8, start="read"),
        EVERY,
        (at_least(0.9, FILE),),
    ),
    Row(
        "seqread-cold",
        "1 MiB sequential read, QD 8, as written, cache dropped",
        Workload("1m read QD8 cold", "read", 1 << 20, 8, once=True),
        (FILE, RAW),
    ),
    Row(
        "randwrite",
        "4k random write, QD 32",
        RANDOM_WRITE,
        EVERY,
        (
            at_least(1.0, FILE),
            at_least(2.5, RAW),
            Bar(8.0, "at most", measure="cpu_us_per_request"),
            Bar(13.0, "at most", measure="cpu_us_per_request", data="real"),
        ),
        KINDS,
    ),
    Row(
        "randwrite-filled",
        "4k random write, QD 32, image read before",
        Workload("4k randwrite QD32 filled", "randwrite", 4096, 32, start="read"),
        (FILE, RAW),
        (at_least(4.0, FILE),),
        KINDS,
    ),
    Row(
        "randwrite-x4",
        "4k random write, QD 32, 4 connections",
        Workload("4k randwrite QD32 x4 conn", "randwrite", 4096, 32, connections=4),
        EVERY,
        (at_least(1.0, FILE),),
        KINDS,
    ),
    Row(
        "randwrite-unaligned",
        "4k random write, QD 32, at sector 7 of 8",
        Workload("4k randwrite QD32 unaligned", "randwrite", 4096, 32, shift_bytes=3584),
        (FILE, RAW),
        (Bar(0.95, against=(Of(OURS, "randwrite"),)),),
        KINDS,
    ),
    Row(
        "randwrite-qd1",
        "4k random write, QD 1, one core",
        Workload("4k randwrite QD1 one core", "randwrite", 4096, 1, pinned=True),
        EVERY,
        (at_least(0.9, FILE),),
        KINDS,
    ),
    Row(
        "flush",
        "4k write + flush each, QD 1, one core",
        Workload("4k randwrite + flush", "randwrite", 4096, 1, flush_each=True, pinned=True),
        (FILE, RAW, QCOW2),
        (
            at_least(1.3, FILE, RAW),
            Bar(
                0.75,
                against=(
                    Of(LIMITS, "append_fdatasync_prewritten_per_s"),
                    Of(LIMITS, "append_dsync_prewritten_per_s"),
                    Of(LIMITS, "append_direct_dsync_prewritten_per_s"),
                ),
            ),
        ),
        KINDS,
    ),
    Row(
        "flush-x8",
        "4k write + flush each, 8 clients",
        Workload("4k randwrite + flush x8", "randwrite", 4096, 1, connections=8, flush_each=True),
        (FILE, RAW, QCOW2),
        (at_least(2.0, FILE, RAW),),
        KINDS,
    ),
    Row(
        "seqwrite",
        "128k sequential write, QD 8, and a flush",
        Workload("128k write QD8", "write", 131072, 8, once=True, end_flush=True),
        EVERY,
        (at_least(1.0, FILE), at_least(0.6, FILE, data="real")),
        KINDS,
    ),
    Row(
        "randwrite-64k",
        "64k random write, QD 8, and a flush",
        Workload("64k randwrite QD8", "randwrite", 65536, 8, once=True, end_flush=True),
        (FILE, RAW),
        (at_least(0.9, FILE),),
        KINDS,
    ),
    Row(
        "randread",
        "4k random read, QD 32, overwritten and read before",
        Workload("4k randread QD32", "randread", 4096, 32, start="read", overwritten=True),
        EVERY,
        (at_least(0.9, FILE),),
    ),
    Row(
        "randread-cold",
        "4k random read, QD 32, page cache dropped",
        Workload("4k randread QD32 cold", "randread", 4096, 32, overwritten=True),
        (FILE, RAW),
    ),
    Row(
        "seqread-overwritten",
        "1 MiB sequential read, QD 8, 4k writes before",
        Workload("1m read QD8 overwritten", "read", 1 << 20, 8, start="read", overwritten=True),
        (FILE, RAW),
    ),
    Row(
        "seqread-overwritten-cold",
        "1 MiB sequential read, QD 8, 4k writes, cache dropped",
        Workload("1m read QD8 overwritten cold", "read", 1 << 20, 8, once=True, overwritten=True),
        (FILE, RAW),
    ),
    Row(
        "mix",
        "70/30 4k mix, QD 32, warm",
        Workload("4k mix QD32", "randrw", 4096, 32, start="read", overwritten=True),
        (FILE, RAW),
        (at_least(1.8, FILE),),
    ),
    Row(
        "mix-cold",
        "70/30 4k mix, QD 32, page cache dropped",
        Workload("4k mix QD32 cold", "randrw", 4096, 32, overwritten=True),
        (FILE, RAW),
        (at_least(0.9, FILE),),
    ),
    Row(
        "recovery",
        "4k random write, QD 32, a recovery point a second",
        Workload("4k randwrite points", "randwrite", 4096, 32),
        (SNAPSHOTS,),
        (at_least(20.0, SNAPSHOTS),),
        way="recovery",
    ),
    Row(
        "view",
        "4k random read of an instant, QD 32, live written",
        Workload("4k randread view", "randread", 4096, 32, start="read"),
        (),
        (Bar(0.5, against=(Of(LIVE),), ours=VIEW),),
        way="view",
    ),
    Row(
        "disk",
        "bytes to disk, 4k random write, QD 32",
        RANDOM_WRITE,
        (),
        (
            Bar(0.7, "at most", measure="disk_bytes_per_byte", data="half", ours=FRESH),
            Bar(0.7, "at most", measure="disk_bytes_per_byte", data="half", ours=RECYCLED),
            Bar(1.1, "at most", measure="disk_bytes_per_byte", data="random", ours=FRESH),
            Bar(1.1, "at most", measure="disk_bytes_per_byte", data="random", ours=RECYCLED),
        ),
        ("half", "random"),
        way="disk",
    ),
)
BY_KEY = {row.key: row for row in ROWS}
