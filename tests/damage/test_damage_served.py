"""Damage as a client of the daemon meets it: EIO for exactly the damaged sectors, at the instants that show them, and a command that names them."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import nbd

from tests.damage.anatomy import SECTOR
from tests.damage.history import NAME, History
from tests.rig.cdp import Cdp
from tests.rig.daemon import Daemon


def _connect(uri: str) -> Any:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def _served(handle: Any, sector: int) -> bytes | int:
    """The sector, or the errno in its place."""
    try:
        return bytes(handle.pread(SECTOR, sector * SECTOR))
    except nbd.Error as error:
        number: int = error.errnum
        return number


def _assert_served(uri: str, state: bytes, lost: set[int]) -> None:
    handle = _connect(uri)
    for sector in range(len(state) // SECTOR):
        wanted = errno.EIO if sector in lost else state[sector * SECTOR : (sector + 1) * SECTOR]
        assert _served(handle, sector) == wanted, f"sector {sector}"
    handle.shutdown()


def test_damage_is_eio_where_it_shows(history: History, rng: random.Random) -> None:
    name = "segment-00000001"
    part = rng.choice([p for p in history.segments[name].parts if p.what == "payload"])
    assert part.entry is not None
    content = bytearray(history.files[name])
    content[rng.randrange(part.start, part.end)] ^= 0x10
    (history.folder / name).write_bytes(content)
    with Daemon(history.store) as daemon:
        for lsn in (part.entry.lsn - 1, part.entry.lsn, history.last_lsn):
            _assert_served(daemon.uri(NAME, f"lsn:{lsn}"), history.states[lsn], history.lost_at(lsn, {part.entry}))
        _assert_served(
            daemon.uri(NAME), history.states[history.last_lsn], history.lost_at(history.last_lsn, {part.entry})
        )
        said = daemon.cdp.run("verify", NAME, exit_code=7).stdout
    assert name in said
    assert f"lsn {part.entry.lsn}" in said
    assert f"offset {part.entry.start * SECTOR}" in said


def test_restoring_damage_says_so(history: History, rng: random.Random, tmp_path: Path) -> None:
    """Exit code 7, and with --allow-damage all the rest, with zeros there."""
    name = "segment-00000001"
    part = rng.choice([p for p in history.segments[name].parts if p.what == "payload"])
    assert part.entry is not None
    content = bytearray(history.files[name])
    content[part.start] ^= 1
    (history.folder / name).write_bytes(content)
    cdp, at, target = Cdp(history.store), f"lsn:{part.entry.lsn}", tmp_path / "out"
    cdp.run("restore", NAME, "--at", at, "--to", target, exit_code=7)
    assert not target.exists()
    cdp.run("restore", NAME, "--at", at, "--to", target, "--allow-damage", exit_code=7)
    wanted = bytearray(history.states[part.entry.lsn])
    for sector in part.entry.covers:
        wanted[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
    assert target.read_bytes() == wanted
