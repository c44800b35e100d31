"""The budget that the volumes of a store share: the file STORE/budget, and what its volumes take of the disk.

    {"budget": 107374182400, "thin": false}

Invariants:
- Without the file the volumes share nothing. One that cannot be understood is an error for who asks, and bounds nobody.
- A file that several volumes have (clones share segments) takes its bytes once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cdp import files
from cdp.errors import Corrupt, Invalid, NotFound
from cdp.retention.policy import BUDGET_MAX, least_budget

BLOCK = 512
"""The unit of st_blocks."""


@dataclass(frozen=True, slots=True)
class SharedBudget:
    """`budget` in bytes, None: there is none. `thin`: it may be smaller than what the live disks could come to need."""

    budget: int | None = None
    thin: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What a volume's folder takes of the disk, in bytes; `own` of them in files that only it has."""

    used: int
    own: int


def path(store: Path) -> Path:
    return store / "budget"


def read(store: Path) -> SharedBudget:
    """Corrupt if the file is not one."""
    try:
        with files.os_errors(f"reading {path(store)}"), open(path(store), "rb") as file:
            told = json.loads(file.read(4096))
        budget, thin = told["budget"], told["thin"]
    except NotFound:
        return SharedBudget()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"{path(store)} holds no budget: cdp retention --store-budget writes it anew") from error
    if not isinstance(thin, bool) or not isinstance(budget, int) or not 0 < budget <= BUDGET_MAX:
        raise Corrupt(f"{path(store)} holds no budget: cdp retention --store-budget writes it anew")
    return SharedBudget(budget, thin)


def write(store: Path, shared: SharedBudget) -> None:
    """Durably."""
    with files.os_errors(f"writing {path(store)}"):
        if shared.budget is None:
            path(store).unlink(missing_ok=True)
            files.sync_folder(store)
        else:
            files.replace(path(store), json.dumps({"budget": shared.budget, "thin": shared.thin}).encode() + b"\n")


def check(budget: int, sizes: Iterable[int]) -> None:
    """Invalid if it is none, or if live disks of these sizes could outgrow it together."""
    if not 0 < budget <= BUDGET_MAX:
        raise Invalid(f"{budget} is no budget: a number of bytes from 1 to {BUDGET_MAX}, or none")
    least = sum(least_budget(size) for size in sizes)
    if budget < least:
        raise Invalid(
            f"the live disks alone may come to need a budget of {least} bytes, more than {budget}: give it that, or --thin to promise that they will stay smaller"
        )


def measure(folders: Iterable[Path]) -> tuple[dict[str, Taken], int]:
    """What each folder takes, by its name, and what they take together."""
    taken: dict[str, Taken] = {}
    seen: set[tuple[int, int]] = set()
    together = 0
    for folder in folders:
        used = own = 0
        for status in _statuses(folder):
            size = status.st_blocks * BLOCK
            used += size
            own += size if status.st_nlink == 1 else 0
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                together += size
        taken[folder.name] = Taken(used, own)
    return taken, together


def _statuses(folder: Path) -> Iterator[os.stat_result]:
    try:
        with os.scandir(folder) as found:
            for one in found:
                try:
                    yield one.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # Compaction removes files meanwhile.
    except OSError:
        return
