"""Drives the native engine through a random history that branches and is thinned, and keeps the model of it."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from cdp import _native
from tests.format.native_history import SIZE, step
from tests.format.writer import VolumeWriter
from tests.format.writer_segment import SECTOR


@dataclass
class Driven:
    """A volume that the engine writes, and what it must read as at each of its instants."""

    folder: Path
    name: str = "disk"
    states: dict[int, bytes] = field(default_factory=lambda: {0: bytes(SIZE)})
    state: bytearray = field(default_factory=lambda: bytearray(SIZE))
    horizon: int = 0

    def __post_init__(self) -> None:
        self.volume = _native.Volume.open(str(self.folder))

    def drive(self, draw: random.Random, steps: int, *, thin: bool = True) -> None:
        """Does `steps` things, at random."""
        for _ in range(steps):
            what = draw.random()
            if what < 0.75:
                lsn = step(self.volume, self.state, draw)
                if lsn is not None:
                    self.states[lsn] = bytes(self.state)
            elif what < 0.83:
                back = draw.choice(sorted(self.states))
                self.state[:] = self.states[back]
                self.states[self.volume.rollback(back)] = bytes(self.state)
            elif what < 0.93:
                self.reopen()
            elif thin:
                self.thin(draw)

    def reopen(self) -> None:
        """Seals the segment."""
        self.volume.close()
        self.volume = _native.Volume.open(str(self.folder))

    def thin(self, draw: random.Random) -> None:
        """Moves the horizon, keeps some points below it, and compacts."""
        horizon = draw.choice([lsn for lsn in self.states if lsn >= self.horizon])
        below = [lsn for lsn in self.states if lsn < horizon]
        self.retain(horizon, sorted(draw.sample(below, min(len(below), draw.randint(0, 5)))))
        self.volume.compact(draw.choice([0, 1 << 20]))

    def retain(self, horizon: int, points: list[int]) -> None:
        """Gives up what is neither at or above the horizon nor a point, and writes a sector."""
        self.volume.flush()
        self.volume.retain(horizon, points)
        self.horizon = horizon
        self.states = {lsn: state for lsn, state in self.states.items() if lsn >= horizon or lsn in points}
        self.state[:SECTOR] = bytes(SECTOR)
        self.states[self.volume.zero(0, SECTOR)] = bytes(self.state)

    def fork(self, draw: random.Random, name: str, identity: str) -> Driven:
        """A clone of an instant."""
        base = draw.choice(sorted(self.states))
        described = VolumeWriter(name=name, id=identity, size=SIZE, created=time.time_ns())
        folder = self.folder.parent / identity
        folder.mkdir()
        for copy in ("volume.0", "volume.1"):
            (folder / copy).write_bytes(described.files[copy])
        self.volume.fork(base, str(folder), bytes.fromhex(identity), described.created)
        state = self.states[base]
        return Driven(folder, name, {base: state}, bytearray(state), base)
