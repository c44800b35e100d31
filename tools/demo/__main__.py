"""The story, step by step; each line that it prints is something that it did or proved. Exit code 1 at the first thing that does not hold."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.rig.cdp import ROOT, environment
from tests.rig.daemon import Daemon
from tests.rig.process import run
from tools.demo import life, proof
from tools.demo.disks import Disk, open_disk

VOLUME = "demo"
SIZE_BYTES = 256 << 20
LIFE_SECONDS = 5.0
EDIT_EVERY = 25
COPIED_ROUNDS = 3
NANOSECONDS = 1_000_000_000
STOPPED = 130
"""The exit code of a program that Ctrl-C ended."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the demo remembers of the good days, to hold against what comes back."""

    files: dict[str, str]
    ledger: life.Ledger
    halfway: int | None
    """An instant in the middle of the work, picked at random; None where nothing was caught in the middle."""
    just_before: int
    """The clock just before the wrecking, after the last good change had been synced."""


def say(text: str) -> None:
    print(text, flush=True)


def when(stamp: int) -> str:
    """RFC 3339 with nine decimals."""
    seconds, nanos = divmod(stamp, NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanos:09}Z"


def gather(folder: Path) -> int:
    """Real files: this project's own, and a part of Python's library. Their number."""
    documents = folder / "documents"
    documents.mkdir(parents=True)
    for name in ("cdp", "docs", "native/engine", "native/nbd", "tests", "tools"):
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, documents / name, ignore=shutil.ignore_patterns("__pycache__", "target", "*.so")
            )
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("asyncio", "email", "json", "sqlite3", "unittest", "xml"):
        shutil.copytree(library / name, documents / "python" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return sum(path.is_file() for path in folder.rglob("*"))


def live_on(disk: Disk, rng: random.Random) -> Past:
    """Works on the disk for a while, then syncs and looks at the clock."""
    ledger = life.Ledger()
    rounds = 0
    with contextlib.closing(life.open_bank(disk.folder)) as bank:
        until = time.monotonic() + LIFE_SECONDS
        while time.monotonic() < until if disk.live else rounds < COPIED_ROUNDS:
            for _ in range(EDIT_EVERY):
                life.transfer(bank, rng, ledger)
            life.edit(disk.folder, rng)
            rounds += 1
            if not disk.live:
                disk.sync()
    disk.sync()
    halfway = rng.randrange(ledger.committed[0], ledger.committed[-1]) if disk.live else None
    past = Past(life.fingerprints(disk.folder), ledger, halfway, just_before=time.time_ns())
    say(
        f"  {len(ledger.committed)} bank transfers, {rounds * 4} changes to documents; {len(past.files)} files in the end"
    )
    return past


def look_at_the_damage(daemon: Daemon, past: Past, scratch: Path) -> None:
    """Without this, all that follows would hold as well if the wrecking had never reached the volume."""
    say("\nRestoring the volume as it is now:")
    folder = examine(restore(daemon, "latest", scratch / "now.img"), scratch / "now")
    proof.check_lost(life.fingerprints(folder), past.files)
    say(f"  proved: of {len(past.files)} files none is what it was")


def second_opinion(daemon: Daemon, past: Past, image: Path) -> None:
    """The reference reader shares no code with the engine; the two images must not differ in a byte."""
    second = image.with_suffix(".second")
    began = time.monotonic()
    command = (sys.executable, "-m", "cdp.salvage", "restore", VOLUME, "--at", when(past.just_before), "--to", second)
    run(*command, "--store", daemon.store, env=environment())
    proof.check_same(image, second)
    say(f"  proved: the reference reader in plain Python restores the same bytes ({time.monotonic() - began:.1f} s)")
    second.unlink()


def restore_and_prove(daemon: Daemon, past: Past, scratch: Path) -> None:
    say(f"\nRestoring the instant just before: {when(past.just_before)}")
    image = restore(daemon, when(past.just_before), scratch / "before.img")
    second_opinion(daemon, past, image)
    folder = examine(image, scratch / "before")
    proof.check_files(life.fingerprints(folder), past.files)
    say(f"  proved: all {len(past.files)} files are back, every SHA-256 as it was, and no file too many")
    transfers = proof.check_bank(folder, (len(past.ledger.committed), len(past.ledger.committed)))
    say(f"  proved: SQLite's integrity check is clean, all {transfers} transfers are there, and the balances add up")
    if past.halfway is not None:
        restore_halfway(daemon, past.ledger, past.halfway, scratch)


def restore_halfway(daemon: Daemon, ledger: life.Ledger, stamp: int, scratch: Path) -> None:
    say(f"\nRestoring an instant in the middle of the work, picked at random: {when(stamp)}")
    folder = examine(restore(daemon, when(stamp), scratch / "halfway.img"), scratch / "halfway")
    low, high = ledger.bounds_at(stamp)
    transfers = proof.check_bank(folder, (low, high))
    say(
        f"  proved: the database opens with {transfers} transfers ({low} were committed by then, {high} begun), and the balances add up"
    )


def restore(daemon: Daemon, instant: str, image: Path) -> Path:
    began = time.monotonic()
    command = (sys.executable, "-m", "cdp.cli.restore", VOLUME, "--at", instant, "--to", image, "--verify")
    run(*command, "--store", daemon.store, env=environment())
    say(f"  pit-restore {VOLUME} --at {instant} --verify: {time.monotonic() - began:.1f} s")
    return image


def examine(image: Path, folder: Path) -> Path:
    replayed = proof.replay_journal(image)
    proof.check_file_system(image)
    say(
        "  proved: e2fsck -fn finds nothing"
        + (", once ext4's journal was replayed as after a power cut" if replayed else "")
    )
    return proof.unpack(image, folder)


def tell(daemon: Daemon) -> None:
    say(f"\nThe timeline (cdp log {VOLUME}):")
    for line in daemon.cdp.run("log", VOLUME).stdout.splitlines()[-12:]:
        say(f"  {line}")


def story(daemon: Daemon, scratch: Path, rng: random.Random) -> None:
    files = scratch / "gathered"
    say(
        f"A volume of {SIZE_BYTES >> 20} MiB, served over NBD; an ext4 with {gather(files)} real files goes into it through nbdcopy"
    )
    daemon.cdp("create", VOLUME, "--size", str(SIZE_BYTES))
    with open_disk(daemon.uri(VOLUME), scratch, files, SIZE_BYTES) as disk:
        shutil.rmtree(files)
        daemon.cdp("bookmark", VOLUME, "day-one")
        say(
            f"Life goes on on it, {'mounted through nbdfuse and a loop device' if disk.live else 'copied in state by state'}:"
        )
        past = live_on(disk, rng)
        lost = life.wreck(disk.folder)
        disk.sync()
    say(f"Disaster: {lost} files overwritten with ciphertext and renamed, {when(time.time_ns())}")
    tell(daemon)
    look_at_the_damage(daemon, past, scratch)
    restore_and_prove(daemon, past, scratch)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A folder for everything, gone at the end; SIGTERM ends the demo as Ctrl-C does, so that it cleans up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="cdp-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> int:
    began = time.monotonic()
    with place() as folder:
        (folder / "store").mkdir()
        try:
            with Daemon(folder / "store") as daemon:
                story(daemon, folder, random.Random())
        except (proof.Unproved, AssertionError) as failed:
            say(f"  NOT proved: {failed}")
            return 1
        except KeyboardInterrupt:
            say("Stopped; cleaned up.")
            return STOPPED
    say(f"\nDone in {time.monotonic() - began:.0f} s; nothing is left behind.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
