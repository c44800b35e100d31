"""Drives the native engine through a random history and keeps the model of it.

Also a program, `python -m tests.format.native_history FOLDER SEED STEPS STATE`: it runs one history on a volume that
reads as STATE (in hex), prints the number of each record and the state after it, and kills itself without a word to the
engine, which is still open.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from cdp import _native
from tests.format.writer import VolumeWriter
from tests.format.writer_segment import SECTOR

SECTORS = 96
SIZE = SECTORS * SECTOR


def lay_volume(store: Path, created: int) -> Path:
    """An empty volume `disk` of SIZE bytes, its journal laid by the engine; returns its folder."""
    described = VolumeWriter(size=SIZE, created=created)
    folder = store / "volumes" / described.id
    folder.mkdir(parents=True)
    for name in ("volume.0", "volume.1"):
        (folder / name).write_bytes(described.files[name])
    _native.create(str(folder), bytes.fromhex(described.id), SIZE, created)
    return folder


def step(volume: _native.Volume, state: bytearray, draw: random.Random) -> int | None:
    """Does one thing to the volume and to the model; the LSN, None for a flush."""
    what = draw.random()
    start = draw.randrange(SECTORS)
    count = draw.randint(1, min(SECTORS - start, draw.choice([1, 8, SECTORS])))
    place = slice(start * SECTOR, (start + count) * SECTOR)
    if what < 0.5:
        pattern = draw.randbytes(SECTOR) if what < 0.2 else bytes([draw.randrange(256)]) * SECTOR
        state[place] = pattern * count if draw.random() < 0.5 else draw.randbytes(count * SECTOR)
        return volume.write(start * SECTOR, bytes(state[place]))
    if what < 0.75:
        state[place] = bytes(count * SECTOR)
        return volume.zero(start * SECTOR, count * SECTOR, what < 0.6)
    if what < 0.85:
        return volume.append_control(
            b'{"type":"bookmark","name":"b%d","lsn":%d}' % (draw.randrange(3), draw.randrange(4))
        )
    volume.flush()
    return None


def run(folder: Path, state: bytearray, seed: int, steps: int) -> tuple[_native.Volume, dict[int, bytes]]:
    """Opens the volume and does `steps` things; the open volume, and the state after each record."""
    draw = random.Random(seed)
    volume = _native.Volume.open(str(folder))
    states = {}
    for _ in range(steps):
        lsn = step(volume, state, draw)
        if lsn is not None:
            states[lsn] = bytes(state)
    return volume, states


def run_and_be_killed(folder: Path, state: bytearray, seed: int, steps: int) -> dict[int, bytes]:
    """The same in another process that dies by SIGKILL; the states of the records that the engine had replied to."""
    words = [
        sys.executable,
        "-m",
        "tests.format.native_history",
        str(folder),
        str(seed),
        str(steps),
        bytes(state).hex(),
    ]
    died = subprocess.run(words, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    states = {}
    for line in died.stdout.splitlines():
        lsn, content = line.split()
        states[int(lsn)] = bytes.fromhex(content)
    if states:
        state[:] = states[max(states)]
    return states


def _run_and_die(folder: str, seed: str, steps: str, state: str) -> None:
    _volume, states = run(Path(folder), bytearray.fromhex(state), int(seed), int(steps))
    for lsn, content in states.items():
        print(lsn, content.hex())
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _run_and_die(*sys.argv[1:])
