"""Damage to a store whose writer was killed: found as damage, or taken for the torn tail that a crash leaves, cut and reported; never a wrong byte.

What was durable before the last batch that says so is never cut.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdp import _native, marks
from cdp.errors import Corrupt
from cdp.store import LocalStore
from tests.damage.anatomy import SECTOR, Part, dissect_open
from tests.damage.history import NAME, checked_folder
from tests.rig.cdp import environment
from tests.rig.process import run

VOLUME_BYTES = 200 * SECTOR
REQUESTS = 40
PARTS = 60
"""Parts of the open segment that one run damages."""

WRITER = """
import os, signal, sys
from cdp import _native
from tests.damage.test_damage_killed import REQUESTS, request
volume = _native.Volume.open(sys.argv[1])
for number in range(REQUESTS):
    offset, content = request(number)
    volume.write(offset, content)
    if number % 6 == 5:
        volume.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def request(number: int) -> tuple[int, bytes]:
    """What the writer writes as its request `number`."""
    rng = random.Random(number)
    length = rng.choice([SECTOR, 300, 5000, 70_000])
    content = rng.randbytes(length) if number % 3 else b"%06d " % number * (length // 7 + 1)
    return rng.randrange(VOLUME_BYTES - length), content[:length]


@dataclass(frozen=True)
class Killed:
    """A store as a killed writer left it; the state after each of its records; the parts of its open segment."""

    store: Path
    folder: Path
    states: list[bytes]
    segment: str
    parts: tuple[Part, ...]
    durable_lsn: int


@pytest.fixture(scope="module")
def killed() -> Iterator[Killed]:
    base = Path(tempfile.mkdtemp(prefix="cdp-"))
    try:
        local = LocalStore(base / "store")
        local.catalog.ensure_store()
        local.create(NAME, VOLUME_BYTES, 512, None)
        folder = local.catalog.find(NAME).folder
        run(sys.executable, "-c", WRITER, folder, exit_code=-9, env=environment())
        states = [bytes(VOLUME_BYTES)]
        for offset, content in map(request, range(REQUESTS)):
            states.append(states[-1][:offset] + content + states[-1][offset + len(content) :])
        largest = max(folder.glob("segment-*"), key=lambda path: path.stat().st_size)
        parts, durable = dissect_open(largest)
        yield Killed(base / "store", folder, states, largest.name, parts, durable)
    finally:
        shutil.rmtree(base)


@pytest.fixture
def folder(killed: Killed, memory_path: Path) -> Path:
    """A copy to damage and to recover."""
    return _fresh(killed, memory_path)


def _fresh(killed: Killed, where: Path) -> Path:
    shutil.rmtree(where / "store", ignore_errors=True)
    shutil.copytree(killed.store, where / "store")
    return where / "store" / "volumes" / killed.folder.name


def _found(folder: Path) -> list[str]:
    local = LocalStore(folder.parent.parent)
    return [f"{finding.file}: {finding.what}" for finding in local.verify(NAME, None).findings]


def _cut(volume: _native.Volume) -> int | None:
    """The LSN at which recovery cut, as its event says."""
    events = [event for event in marks.events(volume.controls()) if event.event == "recovery"]
    assert events, "no event tells of the recovery"
    cut = events[-1].details["cut_lsn"]
    assert cut is None or isinstance(cut, int)
    return cut


def _assert_states(killed: Killed, volume: _native.Volume, last_lsn: int, lost: Part) -> None:
    """Every LSN that is left reads as the model; only sectors of the damaged payload may fail, and only from its LSN on."""
    for lsn in sorted({0, 1, killed.durable_lsn, last_lsn, last_lsn // 2}):
        view, state = volume.view(lsn), killed.states[lsn]
        for start in range(0, len(state), SECTOR):
            try:
                got = view.read(start, SECTOR)
            except Corrupt:
                entry = lost.entry
                assert entry, f"LSN {lsn}, byte {start}: unreadable, but {lost.what} was damaged"
                assert entry.lsn <= lsn
                assert start // SECTOR in entry.covers
            else:
                assert got == state[start : start + SECTOR], f"LSN {lsn}, byte {start}"


def _judge(killed: Killed, folder: Path, part: Part, at: int) -> None:
    found_before = _found(folder) + checked_folder(folder)
    volume = _native.Volume.open(str(folder))
    try:
        cut = _cut(volume)
        last_lsn = REQUESTS if cut is None else cut - 1
        named = cut is not None or found_before or volume.faults() or volume.verify()
        assert named, f"{part.what} at {at}: neither found nor cut"
        assert last_lsn >= killed.durable_lsn or "header" in part.what, f"{part.what} at {at}: cut at {cut}"
        _assert_states(killed, volume, last_lsn, part)
    finally:
        volume.close()
    again = _native.Volume.open(str(folder), read_only=True)
    try:
        _assert_states(killed, again, last_lsn, part)
    finally:
        again.close()


def test_a_killed_writer_loses_nothing(killed: Killed, folder: Path) -> None:
    """The other side of what follows: without damage nothing is cut, and nothing found."""
    assert not _found(folder)
    assert not checked_folder(folder)
    volume = _native.Volume.open(str(folder))
    assert _cut(volume) is None
    _assert_states(killed, volume, REQUESTS, killed.parts[0])
    assert not volume.verify()
    volume.close()


def _judge_flip(killed: Killed, where: Path, part: Part, at: int) -> None:
    folder = _fresh(killed, where)
    content = bytearray((folder / killed.segment).read_bytes())
    content[at] ^= 1 << at % 8
    (folder / killed.segment).write_bytes(content)
    _judge(killed, folder, part, at)


def _last_header(killed: Killed) -> int:
    """The offset of the last batch. Where its header or directory is bad it never happened."""
    return max(part.start for part in killed.parts if part.what == "batch header")


def test_a_changed_byte_is_found_or_cut(killed: Killed, rng: random.Random, memory_path: Path) -> None:
    by_kind: dict[str, list[Part]] = {}
    end = _last_header(killed)
    parts = [part for part in killed.parts if part.start < end or part.entry]
    for part in parts:
        by_kind.setdefault(part.what, []).append(part)
    picked = {part for parts in by_kind.values() for part in (parts[0], parts[-1])}
    for part in picked | set(rng.sample(parts, min(PARTS, len(parts)))):
        for at in {part.start, part.end - 1, rng.randrange(part.start, part.end)}:
            _judge_flip(killed, memory_path, part, at)


def test_a_lost_last_batch_is_reported(killed: Killed, rng: random.Random, memory_path: Path) -> None:
    end = _last_header(killed)
    for part in (part for part in killed.parts if part.start >= end and not part.entry):
        for at in {part.start, part.end - 1, rng.randrange(part.start, part.end)}:
            _judge_flip(killed, memory_path, part, at)


@pytest.mark.parametrize("name", ["manifest.0", "manifest.1"])
def test_a_changed_byte_of_a_manifest_is_found(
    killed: Killed, rng: random.Random, memory_path: Path, name: str
) -> None:
    size = (killed.folder / name).stat().st_size
    for at in sorted({*range(32), *rng.sample(range(size), 30), size - 1}):
        folder = _fresh(killed, memory_path)
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 1 << at % 8
        (folder / name).write_bytes(content)
        assert any(name in said for said in _found(folder)), f"{name} at {at}"
        _judge(killed, folder, Part(at, at + 1, "manifest"), at)


def test_a_torn_tail_is_cut_and_reported(killed: Killed, rng: random.Random, memory_path: Path) -> None:
    """The file ends too early, at any byte: the first record that is not whole and all behind it never happened, and an event says so."""
    ends = [part for part in killed.parts if part.entry and part.entry.lsn > killed.durable_lsn]
    assert ends
    for part in rng.sample(ends, min(6, len(ends))):
        folder = _fresh(killed, memory_path)
        with (folder / killed.segment).open("r+b") as file:
            file.truncate(rng.randrange(part.start, part.end))
        assert part.entry is not None
        volume = _native.Volume.open(str(folder))
        cut = _cut(volume)
        assert cut == part.entry.lsn, json.dumps(volume.faults())
        _assert_states(killed, volume, cut - 1, Part(0, 1, "nothing"))
        volume.close()
