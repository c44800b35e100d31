"""What the machine can do at most, measured in the same run as the servers: `limits` (benchmarks/c/limits.c) on one core beside nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.data import KINDS, pool
from benchmarks.programs import BUILT, program
from tests.rig.process import run

SECONDS_MORE = 300.0


def measure_limits(folder: Path, seconds: float) -> dict[str, float]:
    """Figures by name, the unit at the end of the name; `seconds` for each."""
    pools = [pool(kind, BUILT) for kind in KINDS]
    done = run(program("limits"), str(seconds), folder / "limits.data", *pools, seconds=30 * seconds + SECONDS_MORE)
    return parse(done.stdout)


def parse(printed: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split() for line in printed.splitlines())}


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each limit that every round has."""
    names = [name for name in rounds[0] if all(name in found for found in rounds)] if rounds else []
    return {name: median(found[name] for found in rounds) for name in names}
