"""What happens on the disk: documents that are edited, a bank's database that works in transactions, and the wrecking of it all.

The bank's law: transfers only move money, so the sum of all balances is the same in every state that a transaction left behind.
"""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNTS = 100
BALANCE = 1000
DATABASE = "bank.db"


@dataclass(slots=True)
class Ledger:
    """When each transfer began and when its commit had returned, in nanoseconds since 1970."""

    begun: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)

    def bounds_at(self, stamp: int) -> tuple[int, int]:
        """The smallest and the largest number of transfers that a disk at `stamp` may show."""
        return sum(t <= stamp for t in self.committed), sum(t <= stamp for t in self.begun)


def open_bank(folder: Path) -> sqlite3.Connection:
    bank = sqlite3.connect(folder / DATABASE, isolation_level=None)
    bank.execute("PRAGMA synchronous = FULL")
    bank.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
    bank.execute("CREATE TABLE transfer (id INTEGER PRIMARY KEY, giver INTEGER, taker INTEGER, amount INTEGER)")
    bank.execute("BEGIN")
    bank.executemany("INSERT INTO account VALUES (?, ?)", [(number, BALANCE) for number in range(ACCOUNTS)])
    bank.execute("COMMIT")
    return bank


def transfer(bank: sqlite3.Connection, rng: random.Random, ledger: Ledger) -> None:
    giver, taker = rng.sample(range(ACCOUNTS), 2)
    amount = rng.randint(1, BALANCE)
    ledger.begun.append(time.time_ns())
    bank.execute("BEGIN")
    bank.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, giver))
    bank.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, taker))
    bank.execute("INSERT INTO transfer (giver, taker, amount) VALUES (?, ?, ?)", (giver, taker, amount))
    bank.execute("COMMIT")
    ledger.committed.append(time.time_ns())


def edit(folder: Path, rng: random.Random) -> None:
    """Changes one document in place, lengthens another, writes a new one, removes an old one."""
    documents = sorted(path for path in (folder / "documents").rglob("*") if path.is_file() and not path.is_symlink())
    changed, longer, removed = rng.sample(documents, 3)
    with changed.open("r+b") as file:
        file.seek(rng.randrange(max(1, changed.stat().st_size)))
        file.write(rng.randbytes(rng.randrange(1, 20000)))
    with longer.open("ab") as file:
        file.write(b"one more line\n" * rng.randrange(1, 500))
    (folder / "documents" / f"note-{rng.getrandbits(32):08x}").write_bytes(rng.randbytes(rng.randrange(50000)))
    removed.unlink()


def wreck(folder: Path) -> int:
    """What ransomware does: ciphertext over every file's own blocks, a new name, a demand. The number of files."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in paths:
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.rename(path.with_name(path.name + ".locked"))
    (folder / "READ_ME_TO_GET_YOUR_FILES_BACK.txt").write_text("Pay.\n")
    return len(paths)


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of every regular file, by its path inside the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
