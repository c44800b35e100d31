"""`python -m benchmarks.history`: what it costs to look at any instant of a long history (docs/decisions/0005-history.md).

Fills a short and a long history straight into the engine, in a folder on the disk to measure, and looks into both in turn. Dropping the kernel's caches
needs root. Everything is removed at the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHORT = 100_000
# Names of figures that are printed, with what they must not exceed at ten million writes.
BARS = {
    "fill_s": 60.0,
    "footers_bytes_a_write": None,
    "checkpoints_bytes_a_write": None,
    "merged_runs_bytes_a_write": None,
    "index_bytes_a_write": 80.0,
    "written_index_bytes_a_write": 80.0,
    "open_clean_ms": 1000.0,
    "open_killed_ms": 3000.0,
    "cold_ms_p50": 20.0,
    "cold_ms_p99": 100.0,
    "warm_ms_p50": None,
    "files_asked_a_look": None,
    "tables_kib": None,
    "fill_peak_mib": None,
    "look_peak_mib": None,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--writes", type=int, default=10_000_000)
    parser.add_argument("--looks", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache", help="on the disk to measure")
    return parser.parse_args()


def program() -> Path:
    """The built `cdp-history`."""
    manifest = ROOT / "native" / "Cargo.toml"
    command = ["cargo", "build", "--quiet", "--release", "--manifest-path", str(manifest), "-p", "cdp-bench"]
    subprocess.run(command, check=True)
    metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--manifest-path", str(manifest)]
    out = subprocess.run(metadata, check=True, capture_output=True, text=True).stdout
    return Path(out.split('"target_directory":"')[1].split('"')[0]) / "release" / "cdp-history"


def figures(history: Path, *words: object) -> list[tuple[str, float]]:
    """Runs one step, as a process of its own, and reads its lines `name value`."""
    done = subprocess.run([history, *map(str, words)], check=True, capture_output=True, text=True)
    return [(name, float(value)) for name, value in (line.split() for line in done.stdout.splitlines())]


def measure(history: Path, folder: Path, short: int, long: int, looks: int) -> dict[int, dict[str, float]]:
    """All figures, by number of writes."""
    found: dict[int, dict[str, float]] = {}
    folders = {writes: folder / str(writes) for writes in (short, long)}
    for writes, volume in folders.items():
        volume.mkdir()
        row = found[writes] = dict(figures(history, "fill", volume, writes))
        row["fill_peak_mib"] = row.pop("memory_peak_mib")
        row |= dict(figures(history, "sizes", volume, writes))
        row["open_clean_ms"] = dict(figures(history, "open", volume, writes))["open_ms"]
    pairs = [word for writes, volume in folders.items() for word in (volume, writes)]
    at = short
    for name, value in figures(history, "look", looks, *pairs):
        if name == "writes":
            at = int(value)
        elif name == "memory_peak_mib":
            found[short]["look_peak_mib"] = found[long]["look_peak_mib"] = value
        else:
            found[at][name] = value
    killed = folder / "killed"
    killed.mkdir()
    figures(history, "kill", killed, long)
    found[long]["open_killed_ms"] = dict(figures(history, "open", killed, long))["open_ms"]
    return found


def main() -> int:
    """Prints a table; 1 where a bar is missed."""
    chosen = arguments()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="history-", dir=chosen.folder) as scratch:
        found = measure(program(), Path(scratch), SHORT, chosen.writes, chosen.looks)
    missed = 0
    print(f"{'':30}{SHORT:>14,}{chosen.writes:>14,}{'at most':>10}")
    for name, bar in BARS.items():
        short, long = (found[writes].get(name) for writes in (SHORT, chosen.writes))
        shown = ["-" if value is None else f"{value:.2f}" for value in (short, long)]
        print(f"{name:30}{shown[0]:>14}{shown[1]:>14}{'' if bar is None else bar:>10}")
        missed += bar is not None and long is not None and long > bar
    ratio = found[chosen.writes]["cold_ms_p50"] / found[SHORT]["cold_ms_p50"]
    print(f"{'cold_ms_p50, long / short':30}{'':14}{ratio:>14.2f}{2.0:>10}")
    return 1 if missed or ratio >= 2 else 0


if __name__ == "__main__":
    sys.exit(main())
