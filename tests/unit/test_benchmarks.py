"""The figures of the benchmarks: what is read from the kernel and from clients, how rounds are summed up, and which bars hold."""

from __future__ import annotations

import json
import os
import time
import xml.etree.ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from benchmarks import __main__, chart, limits, procfs, report, sustained
from benchmarks.client import run_fio, run_load
from benchmarks.data import KINDS, half_compressible, libraries, pool
from benchmarks.measure import Figures, raw_share
from benchmarks.programs import can_build_load
from benchmarks.rounds import Plan, turned
from benchmarks.rows import BY_KEY, FILE, LIMITS, OURS, RAW, ROWS, Bar, Of, Row, at_least
from benchmarks.servers import Nbdkit
from benchmarks.verdicts import Key, medians, verdict, verdicts
from benchmarks.workloads import RANDOM_WRITE, Workload

SIZE = 8 << 20
LOADS = {row.key: row.workload for row in ROWS if row.way == "load"}


def figures(iops: float, disk: float | None = None, *, cpu: float = 4.0) -> Figures:
    return Figures(iops, 1.0, 2.0, 3.0, 3.5, 9.0, cpu, disk, 5.0)


def test_a_median_is_taken_figure_by_figure() -> None:
    summed = medians([figures(10, 1.0), figures(30, None), figures(20, 3.0)])
    assert summed == figures(20, 2.0)


def test_a_figure_that_no_round_has_stays_unknown() -> None:
    assert medians([figures(1), figures(2)]).disk_bytes_per_byte is None
    assert report.row("w", "s", figures(1234)) == "| w | s | 1,234 | 1 | 2 | 3 | 4 | 4.0 |  |  | 5 |"


def test_the_document_holds_every_round() -> None:
    results: dict[Key, list[Figures]] = {("randwrite", "half", OURS): [figures(1), figures(3)]}
    document = json.loads(report.document(ROWS, results, {"limit": 1.0}, {"rounds": 2}))
    assert [found["iops"] for found in document["results"][0]["rounds"]] == [1, 3]
    assert document["results"][0]["median"]["iops"] == 2
    assert {bar["row"] for bar in document["bars"]} == {"randwrite"}


@pytest.mark.parametrize(("ours", "held"), [(149, False), (150, True)])
def test_a_bar_is_about_the_best_of_its_peers(ours: float, held: bool) -> None:
    row = Row("r", "R", RANDOM_WRITE, (FILE, RAW), (at_least(1.5, FILE, RAW),))
    results: dict[Key, list[Figures]] = {("r", "half", OURS): [figures(ours)], ("r", "half", FILE): [figures(100)]}
    assert verdict(row, row.bars[0], results, {}).held is None, "a peer that was not measured may be the best"
    results["r", "half", RAW] = [figures(50)]
    found = verdict(row, row.bars[0], results, {})
    assert (found.figure, found.held) == (ours / 100, held)


def test_a_bar_can_be_about_our_own_figure() -> None:
    bar = Bar(8.0, "at most", measure="cpu_us_per_request")
    row = Row("r", "R", RANDOM_WRITE, bars=(bar,))
    for cpu, held in ((8.0, True), (8.1, False)):
        assert verdict(row, bar, {("r", "half", OURS): [figures(1, cpu=cpu)]}, {}).held is held


def test_a_bar_can_be_about_another_row_or_a_limit() -> None:
    row = Row(
        "r", "R", RANDOM_WRITE, bars=(Bar(0.5, against=(Of(OURS, "other"),)), Bar(0.5, against=(Of(LIMITS, "x"),)))
    )
    results: dict[Key, list[Figures]] = {("r", "half", OURS): [figures(60)], ("other", "half", OURS): [figures(100)]}
    assert [one.figure for one in verdicts([row], results, {"x": 240.0})] == [0.6, 0.25]
    assert [one.held for one in verdicts([row], results, {})] == [True, None]


def test_only_bars_of_what_was_measured_are_judged() -> None:
    assert list(verdicts(ROWS, {}, {})) == []


def test_every_bar_compares_with_something_that_is_measured() -> None:
    for row in ROWS:
        for bar in row.bars:
            assert bar.data in row.data
            assert bar.ours in row.servers(bar.data)
            for of in bar.against:
                assert of.server == LIMITS or of.server in BY_KEY[of.row or row.key].servers(bar.data)


def test_rows_that_a_bar_needs_are_measured_with_it() -> None:
    chosen = __main__.arguments(["--only", "randwrite-unaligned", "--data", "random", "half"])
    plan = __main__.plan_of(chosen)
    assert [row.key for row in plan.rows] == ["randwrite", "randwrite-unaligned"]
    assert list(plan.data) == ["half", "random"]


def test_other_data_meets_our_server_and_the_first_peer() -> None:
    plan = Plan([BY_KEY["randwrite"]], [OURS, FILE, RAW], KINDS, 1.0, SIZE)
    assert [names for _, names in plan.pairs("half")] == [[OURS, FILE, RAW]]
    assert [names for _, names in plan.pairs("real")] == [[OURS, FILE]]
    assert replace(plan, servers=[RAW]).pairs("real") == []


def test_every_server_goes_first_once() -> None:
    assert [turned("abc", turn) for turn in range(3)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_a_limit_that_a_round_lacks_is_left_out() -> None:
    found = [limits.parse("a_per_s 1\nb_us 3.5\n"), limits.parse("a_per_s 3\n")]
    assert limits.medians(found) == {"a_per_s": 2.0}
    assert limits.medians([]) == {}


def test_the_share_stored_raw_is_that_of_the_run() -> None:
    assert raw_share((10, 100), (40, 200)) == 0.3
    assert raw_share(None, (1, 2)) is None
    assert raw_share((1, 2), (1, 2)) is None


def test_the_picture_is_xml_and_cuts_long_bars() -> None:
    root = xml.etree.ElementTree.fromstring(chart.svg([("a < b", 0.5), ("c", 40.0)], "note"))
    widths = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert widths[1] == pytest.approx(8 * widths[0], abs=0.2)
    assert {"a < b", "40.00", "note"} <= {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}


def test_the_picture_shows_rows_that_both_ran() -> None:
    results: dict[Key, list[Figures]] = {
        ("randwrite", "half", OURS): [figures(3)],
        ("randwrite", "half", FILE): [figures(2)],
    }
    assert chart.ratios(ROWS, results) == [(BY_KEY["randwrite"].title, 1.5)]


def test_a_slow_minute_misses_the_sustained_bar() -> None:
    def run(*rates: float) -> sustained.Sustained:
        return sustained.Sustained(tuple(sustained.Interval(rate, 1, 1) for rate in rates), 100, 1000, 1, None, 1)

    peer = run(100, 100)
    assert [one.held for one in sustained.verdicts(run(100, 90, 70), peer, "half")] == [True] * 4
    assert [one.held for one in sustained.verdicts(run(100, 90, 69), peer, "half")][:2] == [False, True]
    late = replace(peer, p999_us=201, max_us=1_000_001)
    assert [one.held for one in sustained.verdicts(late, peer, "half")][2:] == [False, False]


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


def test_half_compressible_data_is_half_zero() -> None:
    made = half_compressible(8192)
    assert len(made) == 8192
    assert made[256:512] == made[768:1024] == bytes(256)
    assert made.count(0) == pytest.approx(4096, abs=64)


def test_a_pool_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    for kind in KINDS:
        assert pool(kind, tmp_path, 1 << 20).stat().st_size == 1 << 20
    assert pool("real", tmp_path, 1 << 20).read_bytes()[:4096] == libraries()[0].read_bytes()[:4096]


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Nbdkit]:
    server = Nbdkit(tmp_path, SIZE)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("workload", LOADS.values(), ids=LOADS)
def test_fio_takes_every_workload(workload: Workload, export: Nbdkit) -> None:
    figures = run_fio(workload, export.uri, SIZE, 0.2)
    assert figures.bytes >= workload.block_bytes
    assert figures.requests >= figures.bytes // workload.block_bytes
    assert 0 < figures.p50_us <= figures.p99_us <= figures.p999_us
    assert figures.bytes == SIZE or not workload.once


needs_load = pytest.mark.skipif(not can_build_load(), reason="no libnbd-dev")


@needs_load
@pytest.mark.parametrize("workload", LOADS.values(), ids=LOADS)
def test_load_takes_every_workload(workload: Workload, export: Nbdkit, tmp_path: Path) -> None:
    figures = run_load(workload, pool("half", tmp_path, 1 << 20), export.uri, SIZE, 0.2)
    assert figures.bytes >= workload.block_bytes
    assert figures.requests == figures.bytes // workload.block_bytes * (2 if workload.flush_each else 1)
    assert 0 < figures.p50_us <= figures.p99_us <= figures.p999_us <= figures.max_us
    assert figures.bytes == SIZE or not workload.once


@needs_load
@pytest.mark.parametrize("pattern", ["write", "randwrite"])
def test_load_writes_each_block_once_with_bytes_of_the_pool(
    export: Nbdkit, tmp_path: Path, pattern: Literal["write", "randwrite"]
) -> None:
    marked = tmp_path / "marked"
    marked.write_bytes(b"\xa5" * 65536)
    once = Workload("once", pattern, 4096, 32, once=True)
    run_load(once, marked, export.uri, SIZE - 4096, 0)
    image = (tmp_path / "image").read_bytes()
    assert image == b"\xa5" * (SIZE - 4096) + bytes(4096)


@needs_load
def test_load_shifts_every_offset(export: Nbdkit, tmp_path: Path) -> None:
    marked = tmp_path / "marked"
    marked.write_bytes(b"\xa5" * 65536)
    run_load(replace(RANDOM_WRITE, shift_bytes=3584, once=True), marked, export.uri, SIZE, 0)
    image = (tmp_path / "image").read_bytes()
    assert image == bytes(3584) + b"\xa5" * (SIZE - 4096) + bytes(512)
