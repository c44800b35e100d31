"""Medians over the rounds, as a table to read and as JSON to compare with a later run."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median

from benchmarks.measure import Figures
from tests.rig.process import run

Rounds = Mapping[tuple[str, str], Sequence[Figures]]
"""(workload, server) to one measurement a round."""

HEADER = (
    "| workload | server | IOPS | MiB/s | p50 us | p99 us | server CPU us/request | disk bytes/byte | peak MiB |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|",
)


def medians(rounds: Sequence[Figures]) -> Figures:
    """Each figure's own median: they need not come from one round."""
    chosen: dict[str, float | None] = {}
    for field in fields(Figures):
        known = [value for value in (getattr(figures, field.name) for figures in rounds) if value is not None]
        chosen[field.name] = median(known) if known else None
    return Figures(**chosen)  # type: ignore[arg-type]


def row(workload: str, server: str, figures: Figures) -> str:
    disk = "" if figures.disk_bytes_per_byte is None else f"{figures.disk_bytes_per_byte:.2f}"
    return (
        f"| {workload} | {server} | {figures.iops:,.0f} | {figures.mib_per_second:,.0f} | {figures.p50_us:,.0f} "
        f"| {figures.p99_us:,.0f} | {figures.cpu_us_per_request:.1f} | {disk} | {figures.peak_memory_mib:,.0f} |"
    )


def table(rounds: Rounds) -> str:
    rows = [row(workload, server, medians(measured)) for (workload, server), measured in rounds.items()]
    return "\n".join((*HEADER, *rows))


def ratios(rounds: Rounds, server: str, peer: str) -> str:
    """One line: the requests a second of `server` by those of `peer`, for every workload that both ran."""
    found = {
        workload: medians(rounds[workload, server]).iops / medians(rounds[workload, peer]).iops
        for workload, name in rounds
        if name == server and (workload, peer) in rounds
    }
    return f"{server} / {peer}: " + ", ".join(f"{workload} {ratio:.2f}" for workload, ratio in found.items())


def document(rounds: Rounds, settings: Mapping[str, object]) -> str:
    """All rounds and their medians, with what they were measured on."""
    results = [
        {
            "workload": workload,
            "server": server,
            "median": asdict(medians(measured)),
            "rounds": [asdict(figures) for figures in measured],
        }
        for (workload, server), measured in rounds.items()
    ]
    return json.dumps({"machine": machine(), "settings": dict(settings), "results": results}, indent=1) + "\n"


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
