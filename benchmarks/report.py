"""Medians over the rounds: tables to read, and JSON to compare with a later run."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Figures
from benchmarks.rows import EVERY, Row
from benchmarks.verdicts import Limits, Results, Verdict, medians, verdicts
from tests.rig.process import run

LARGE_BLOCK_BYTES = 65536
"""From here on a rate is told in MiB/s."""

HEADER = (
    "| workload | server | IOPS | MiB/s | p50 us | p99 us | p99.9 us | server CPU us/request | disk bytes/byte | stored raw | peak MiB |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)


def row(workload: str, server: str, figures: Figures) -> str:
    disk = "" if figures.disk_bytes_per_byte is None else f"{figures.disk_bytes_per_byte:.2f}"
    raw = "" if figures.stored_raw is None else f"{figures.stored_raw:.0%}"
    return (
        f"| {workload} | {server} | {figures.iops:,.0f} | {figures.mib_per_second:,.0f} | {figures.p50_us:,.0f} "
        f"| {figures.p99_us:,.0f} | {figures.p999_us:,.0f} | {figures.cpu_us_per_request:.1f} | {disk} | {raw} "
        f"| {figures.peak_memory_mib:,.0f} |"
    )


def details(results: Results) -> str:
    """All columns of every row, data and server."""
    lines = [row(f"{key}, {data}", server, medians(rounds)) for (key, data, server), rounds in results.items()]
    return "\n".join((*HEADER, *lines))


def comparison(rows: Iterable[Row], results: Results) -> str:
    """A line a row and kind of data: our rate, and each peer's with our ratio to it."""
    lines = [
        "| workload | data | ours | " + " | ".join(EVERY) + " | others |",
        "|---|---|--:|" + "--:|" * (len(EVERY) + 1),
    ]
    for each in rows:
        for data in each.data:
            measured = [name for name in each.servers(data) if (each.key, data, name) in results]
            if not measured:
                continue
            found = {name: medians(results[each.key, data, name]) for name in measured}
            subject = each.servers(data)[0]
            ours = found.get(subject)
            cells = [_peer(each, ours, found.get(name)) for name in EVERY]
            others = [f"{name} {_peer(each, ours, found[name])}" for name in measured if name not in (*EVERY, subject)]
            lines.append(f"| {each.title} | {data} | {_rate(each, ours)} | {' | '.join(cells)} | {', '.join(others)} |")
    return "\n".join(lines)


def _rate(each: Row, figures: Figures | None) -> str:
    if figures is None:
        return ""
    large = each.workload.block_bytes >= LARGE_BLOCK_BYTES
    return f"{figures.mib_per_second:,.0f} MiB/s" if large else f"{figures.iops:,.0f}"


def _peer(each: Row, ours: Figures | None, peer: Figures | None) -> str:
    if peer is None:
        return ""
    return _rate(each, peer) + (f" ({ours.iops / peer.iops:.2f})" if ours else "")


def bars(found: Iterable[Verdict]) -> str:
    """A line a bar: what is asked, what was seen, whether it holds."""
    words = {True: "held", False: "MISSED", None: "not measured"}
    lines = ["| row | data | bar | ours | against | figure | |", "|---|---|---|--:|--:|--:|---|"]
    for one in found:
        numbers = " | ".join("" if value is None else _short(value) for value in (one.ours, one.against, one.figure))
        lines.append(f"| {one.row} | {one.data} | {one.bar} | {numbers} | {words[one.held]} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def limits_table(limits: Limits) -> str:
    return "\n".join(
        ("| limit of the machine | |", "|---|--:|", *(f"| {name} | {limits[name]:,g} |" for name in limits))
    )


def document(rows: Sequence[Row], results: Results, limits: Limits, settings: Mapping[str, object]) -> str:
    """All rounds, their medians and the verdicts, with what they were measured on."""
    found = [
        {
            "row": key,
            "data": data,
            "server": server,
            "median": asdict(medians(measured)),
            "rounds": [asdict(figures) for figures in measured],
        }
        for (key, data, server), measured in results.items()
    ]
    told = {
        "machine": machine(),
        "settings": dict(settings),
        "limits": dict(limits),
        "bars": [asdict(one) for one in verdicts(rows, results, limits)],
        "results": found,
    }
    return json.dumps(told, indent=1) + "\n"


def machine() -> dict[str, object]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "fio": run("fio", "--version").stdout.strip(),
        "nbdkit": run("nbdkit", "--version").stdout.strip(),
        "qemu-nbd": run("qemu-nbd", "--version").stdout.splitlines()[0],
    }
