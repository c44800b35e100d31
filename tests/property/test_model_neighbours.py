"""Four connections write neighbouring bytes of the same sectors at the same time: no write undoes its neighbour's, at any instant."""

from __future__ import annotations

import itertools
import random
from typing import Any, NamedTuple

import nbd

from tests.property.model_readers import connect
from tests.rig.daemon import Daemon, Transport

VOLUME_BYTES = 96 * 1024
CONNECTIONS = 4
CELLS = 400
"""Pieces of the volume, 245 bytes on average, by turns one connection's and the next one's: most sectors have several writers."""
ROUNDS = 20


class Cell(NamedTuple):
    """Bytes `start..end`, which connection `owner` alone writes."""

    owner: int
    start: int
    end: int

    def content(self, round_: int) -> bytes:
        """What a round writes: the same everywhere in the cell, another one than its neighbours' and the last round's."""
        mark = self.owner + 1 + CONNECTIONS * (round_ % 60) if round_ else 0
        return bytes([mark]) * (self.end - self.start)


def _cells(rng: random.Random) -> list[Cell]:
    cuts = [0, *sorted(rng.sample(range(1, VOLUME_BYTES), CELLS - 1)), VOLUME_BYTES]
    return [Cell(number % CONNECTIONS, a, b) for number, (a, b) in enumerate(itertools.pairwise(cuts))]


def _write_all(handles: list[Any], cells: list[Cell], round_: int, rng: random.Random) -> None:
    """Every cell once, each by its owner, all under way together, in any order."""
    waiting = []
    for cell in rng.sample(cells, len(cells)):
        buffer = nbd.Buffer.from_bytearray(bytearray(cell.content(round_)))
        waiting.append((handles[cell.owner], handles[cell.owner].aio_pwrite(buffer, cell.start)))
    for handle, cookie in waiting:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)


def _state(cells: list[Cell], round_: int) -> bytes:
    return b"".join(cell.content(round_) for cell in cells)


def test_no_write_undoes_its_neighbours(daemon: Daemon, rng: random.Random, transport: Transport) -> None:
    daemon.cdp("create", "disk", "--size", str(VOLUME_BYTES))
    handles = [connect(daemon.uri("disk", transport=transport)) for _ in range(CONNECTIONS)]
    cells = _cells(rng)
    for round_ in range(1, ROUNDS + 1):
        _write_all(handles, cells, round_, rng)
        same = handles[round_ % CONNECTIONS].pread(VOLUME_BYTES, 0) == _state(cells, round_)
        assert same, f"round {round_}"
    for lsn in rng.sample(range(ROUNDS * CELLS + 1), 40):
        _assert_instant(daemon, cells, lsn)


def _assert_instant(daemon: Daemon, cells: list[Cell], lsn: int) -> None:
    """So many cells are at the round that is under way as the LSN says, the others at the one before; none is in between."""
    done, under_way = divmod(lsn, CELLS)
    view = connect(daemon.uri("disk", f"lsn:{lsn}"))
    seen = bytes(view.pread(VOLUME_BYTES, 0))
    view.shutdown()
    new = [cell for cell in cells if seen[cell.start : cell.end] == cell.content(done + 1)]
    old = [cell for cell in cells if seen[cell.start : cell.end] == cell.content(done)]
    assert (len(new), len(old)) == (under_way, CELLS - under_way), f"LSN {lsn}"
