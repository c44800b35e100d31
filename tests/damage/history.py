"""A small volume with a history of every kind, stopped cleanly, and what it must read as at each of its LSNs."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from cdp import _native, marks
from cdp.errors import Corrupt
from cdp.facts import FindingFacts
from cdp.salvage.check import check_volume
from cdp.salvage.report import DAMAGE, Finding
from cdp.store import LocalStore
from tests.damage.anatomy import DATA, SECTOR, Entry, Segment, dissect

NAME = "disk"
VOLUME_BYTES = 320 * SECTOR
SMALL_WRITES = 240
"""Records of the second run: enough for a footer with more than one block."""


MORE_RUNS = 7
"""Runs until enough segments are sealed for a checkpoint."""
CHECKPOINT_SECONDS = 60.0


@dataclass
class History:
    """The volume, the bytes of its files, its model (the state at each LSN) and the anatomy of its segments."""

    store: Path
    states: dict[int, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    segments: dict[str, Segment] = field(default_factory=dict)

    def __post_init__(self) -> None:
        local = LocalStore(self.store)
        local.catalog.ensure_store()
        local.create(NAME, VOLUME_BYTES, 512, None)
        self.folder = local.catalog.find(NAME).folder
        self.states[0] = bytes(VOLUME_BYTES)

    @property
    def last_lsn(self) -> int:
        return max(self.states)

    @property
    def entries(self) -> list[Entry]:
        return [entry for name in sorted(self.segments) for entry in self.segments[name].entries]

    def lost_at(self, lsn: int, damaged: set[Entry]) -> set[int]:
        """The sectors that the state at `lsn` shows from a damaged payload."""
        shown: dict[int, Entry] = {}
        for entry in self.entries:
            if entry.lsn <= lsn:
                shown.update(dict.fromkeys(entry.covers, entry))
        return {sector for sector, entry in shown.items() if entry in damaged}

    def put_back(self, name: str) -> None:
        (self.folder / name).write_bytes(self.files[name])


class Writer:
    """One run of the writer over a history; every write is applied to the model too."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._volume = _native.Volume.open(str(history.folder))

    def write(self, offset: int, content: bytes) -> None:
        self._note(self._volume.write(offset, content), offset, content)

    def zero(self, offset: int, length: int, *, trim: bool = False) -> None:
        self._note(self._volume.zero(offset, length, trim), offset, bytes(length))

    def bookmark(self, name: str) -> None:
        record = marks.bookmark_record(name, self._history.last_lsn, self._volume.latest().stamp)
        self._note(self._volume.append_control(record), 0, b"")

    def flush(self) -> None:
        self._volume.flush()

    def wait_for_checkpoint(self) -> None:
        """The volume's own thread writes it beside the requests, when enough segments are sealed."""
        deadline = time.monotonic() + CHECKPOINT_SECONDS
        while not any(self._history.folder.glob("checkpoint-????????")):
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.01)

    def close(self) -> None:
        self._volume.close()

    def _note(self, lsn: int, offset: int, content: bytes) -> None:
        state = bytearray(self._history.states[self._history.last_lsn])
        state[offset : offset + len(content)] = content
        self._history.states[lsn] = bytes(state)


def small_history(store: Path) -> History:
    """Sealed segments and a checkpoint: data of one and of many chunks, aligned and not, zeros, trims, bookmarks, flush points."""
    history = History(store)
    noise = random.Random(20261122)
    run = Writer(history)
    run.write(0, b"text of three sectors ".ljust(3 * SECTOR, b"."))
    run.write(700, noise.randbytes(1000))
    run.flush()
    run.zero(4096, 3000)
    run.zero(1000, 9000, trim=True)
    run.bookmark("first")
    run.write(20_001, b"in three chunks " * 3000 + noise.randbytes(30_000))
    run.flush()
    run.write(100 * SECTOR, noise.randbytes(40 * SECTOR))
    run.write(101 * SECTOR, noise.randbytes(SECTOR))
    run.close()
    run = Writer(history)
    for number in range(SMALL_WRITES):
        where = noise.randrange(VOLUME_BYTES - 2 * SECTOR)
        run.write(where, b"%06d " % number * noise.randrange(1, 100) if number % 4 else noise.randbytes(SECTOR))
        if number % 50 == 0:
            run.flush()
    run.close()
    run = Writer(history)
    run.zero(0, VOLUME_BYTES // 2)
    run.write(3 * SECTOR, noise.randbytes(2 * SECTOR))
    run.bookmark("last")
    run.close()
    for number in range(MORE_RUNS):
        run = Writer(history)
        run.write(noise.randrange(VOLUME_BYTES // 2), noise.randbytes(700))
        run.zero((200 + number) * SECTOR, SECTOR)
        if number == MORE_RUNS - 1:
            run.wait_for_checkpoint()
        run.close()
    history.files = {path.name: path.read_bytes() for path in sorted(history.folder.iterdir())}
    history.segments = {name: dissect(history.folder / name) for name in history.files if name.startswith("segment-")}
    return history


def verified(history: History) -> list[FindingFacts]:
    """What `cdp verify` finds."""
    return list(LocalStore(history.store).verify(NAME, None).findings)


def checked(history: History) -> list[Finding]:
    """What the reference reader's `check` finds to be damaged."""
    return [finding for finding in check_volume(history.folder).findings if finding.severity == DAMAGE]


def checked_folder(folder: Path) -> list[str]:
    """The same for any volume, as sentences."""
    return [finding.line() for finding in check_volume(folder).findings if finding.severity == DAMAGE]


def assert_reads(history: History, lsns: list[int], damaged: set[Entry]) -> None:
    """At each LSN exactly the sectors of the damaged payloads that show there fail, and all others are the model's."""
    volume = _native.Volume.open(str(history.folder), read_only=True)
    try:
        for lsn in lsns:
            lost = history.lost_at(lsn, damaged) if damaged else set()
            assert_view_reads(volume.view(lsn), history.states[lsn], lost)
        lost = history.lost_at(history.last_lsn, damaged) if damaged else set()
        assert_view_reads(volume.live(), history.states[history.last_lsn], lost)
    finally:
        volume.close()


def assert_view_reads(view: _native.View, state: bytes, lost: set[int]) -> None:
    if not lost:
        assert view.read(0, len(state)) == state
        return
    for sector in range(len(state) // SECTOR):
        wanted = None if sector in lost else state[sector * SECTOR : (sector + 1) * SECTOR]
        assert _sector(view, sector) == wanted, f"sector {sector} of LSN {view.lsn}"


def _sector(view: _native.View, sector: int) -> bytes | None:
    try:
        return view.read(sector * SECTOR, SECTOR)
    except Corrupt:
        return None


def data_entries(history: History, name: str, start: int, end: int) -> set[Entry]:
    """Data entries with a stored byte in `start..end` of a file."""
    if name not in history.segments:
        return set()
    parts = history.segments[name].payloads(start, end)
    return {part.entry for part in parts if part.entry is not None and part.entry.kind == DATA}
