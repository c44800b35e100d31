"""The command line as a user calls it: a process of its own, `--json` parsed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.rig.process import SECONDS_MAX, run

ROOT = Path(__file__).parents[2]
CDP = (sys.executable, "-m", "cdp.cli.main")


def environment() -> dict[str, str]:
    """This process's, with the checkout importable and no store of the user's in reach."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("CDP_")}
    return env | {"PYTHONPATH": str(ROOT)}


class Cdp:
    """`cdp("show", "disk")` runs `cdp show disk --store STORE --json` and returns what it printed."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def __call__(self, verb: str, *args: str | Path) -> Any:
        """The parsed JSON, or None where the command printed nothing. ProgramFailed, with all output, unless it succeeds."""
        printed = self.run(verb, *args, "--json").stdout
        return json.loads(printed) if printed.strip() else None

    def run(
        self, verb: str, *args: str | Path, exit_code: int = 0, seconds: float = SECONDS_MAX
    ) -> subprocess.CompletedProcess[str]:
        """The command without `--json`; ProgramFailed unless it ends with `exit_code`."""
        return run(*CDP, verb, *args, "--store", self.store, exit_code=exit_code, env=environment(), seconds=seconds)
