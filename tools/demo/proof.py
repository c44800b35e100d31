"""What is checked about a restored image, by programs that others wrote: e2fsck, debugfs and SQLite.

Each check raises Unproved with a sentence; none of them mounts anything.
"""

from __future__ import annotations

import filecmp
import hashlib
import sqlite3
from pathlib import Path

from tests.rig.process import ProgramFailed, run
from tools.demo.life import ACCOUNTS, BALANCE, DATABASE

FIXED = 1
"""e2fsck's exit code when it changed what a preen may change."""

EMPTY = hashlib.sha256().hexdigest()
"""Of a file without content, which nothing can wreck."""


class Unproved(Exception):
    """A check failed: the restore is not what it should be."""


def replay_journal(image: Path) -> bool:
    """Does what mounting would do: a mounted ext4's instant has its last changes in its journal, as after a power cut.

    Whether there was anything to replay. Unproved if more than a replay is needed.
    """
    done = run("e2fsck", "-p", image, exit_code=None)
    if done.returncode not in (0, FIXED):
        raise Unproved(f"the journal of the restored file system cannot be replayed: {done.stdout}")
    return "recovering journal" in done.stdout


def check_file_system(image: Path) -> None:
    """A full read-only check must find nothing at all."""
    try:
        run("e2fsck", "-f", "-n", image)
    except ProgramFailed as broken:
        raise Unproved(f"the restored file system is inconsistent: {broken}") from None


def unpack(image: Path, folder: Path) -> Path:
    """Reads all files out of the image without mounting it."""
    folder.mkdir()
    run("debugfs", "-R", f'rdump / "{folder}"', image)
    return folder


def check_files(found: dict[str, str], expected: dict[str, str]) -> None:
    """Same names, same contents, nothing more, nothing less."""
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        raise Unproved(f"{len(wrong)} of {len(expected)} files differ, {wrong[0]} among them")


def check_lost(found: dict[str, str], expected: dict[str, str]) -> None:
    """No content that was there is there any more, under whatever name."""
    kept = (set(expected.values()) & set(found.values())) - {EMPTY}
    if kept:
        raise Unproved(f"{len(kept)} files survived the wrecking")


def check_same(image: Path, other: Path) -> None:
    if not filecmp.cmp(image, other, shallow=False):
        raise Unproved(f"{image} and {other} differ")


def check_bank(folder: Path, bounds: tuple[int, int]) -> int:
    """SQLite's own check, the bank's law, and as many transfers as that instant may show. Their number."""
    bank = sqlite3.connect(folder / DATABASE)
    try:
        verdict = bank.execute("PRAGMA integrity_check").fetchone()[0]
        total = bank.execute("SELECT SUM(balance) FROM account").fetchone()[0]
        transfers: int = bank.execute("SELECT COUNT(*) FROM transfer").fetchone()[0]
    except sqlite3.Error as broken:
        raise Unproved(f"the restored database does not open: {broken}") from None
    finally:
        bank.close()
    if verdict != "ok":
        raise Unproved(f"SQLite finds the restored database damaged: {verdict}")
    if total != ACCOUNTS * BALANCE:
        raise Unproved(f"the restored balances add up to {total}, not {ACCOUNTS * BALANCE}")
    if not bounds[0] <= transfers <= bounds[1]:
        raise Unproved(f"{transfers} transfers, but that instant has seen {bounds[0]} to {bounds[1]}")
    return transfers
