"""Rolling a volume back beside its model, while its clients write or after they left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from cdp.errors import Busy, NotFound
from cdp.facts import RollbackFacts
from cdp.when import AtLsn
from tests.property.model_disk import CONNECTIONS, Disk, patiently, replied
from tests.property.model_readers import served
from tests.property.model_volume import Piece, Sent


def roll_back(disk: Disk, to: int | None, under_way: Sequence[Piece], *, force: bool) -> None:
    """`to` None: undoes the newest rollback. What cannot be reached is refused, and changes nothing.

    `force`: writes are under way when it ends their connections; each is a record before the rollback, or none at all.
    """
    model = disk.model
    wanted = to if to is not None else model.rollbacks[-1][1] if model.rollbacks else None
    began = time.time_ns()
    waiting = disk.begin(under_way) if force else []
    try:
        made = _forced(disk, to) if force else _after_all_left(disk, to)
    except NotFound:
        assert wanted is None or not disk.reach().holds(wanted)
        # Nobody's connection was ended for it.
        if waiting:
            assert all(replied(*request) for request in waiting)
            model.apply(under_way, Sent(began, time.time_ns()))
        disk.handles[0].pread(512, 0)
        return
    done = [piece for piece, request in zip(under_way, waiting, strict=False) if replied(*request)]
    disk.handles = disk.connected()
    if made.before.lsn == model.newest:
        assert not done
    else:
        _note_admitted(disk, made.before.lsn, under_way, done, Sent(began, time.time_ns()))
    assert (made.to.lsn, made.connections_ended) == (wanted, CONNECTIONS if force else 0)
    assert made.lsn == model.last_lsn + 1
    model.note_rollback(made.lsn, made.to.lsn, disk.shown())


def _forced(disk: Disk, to: int | None) -> RollbackFacts:
    return disk.control(lambda store: store.rollback(disk.name, _when(to), force=True))


def _after_all_left(disk: Disk, to: int | None) -> RollbackFacts:
    with pytest.raises((NotFound, Busy)) as refused:
        disk.control(lambda store: store.rollback(disk.name, _when(to), force=False))
    if isinstance(refused.value, NotFound):
        raise refused.value
    disk.handles[0].pread(512, 0)
    disk.disconnect()
    try:
        return patiently(lambda: disk.control(lambda store: store.rollback(disk.name, _when(to), force=False)))
    except NotFound:
        disk.handles = disk.connected()
        raise


def _note_admitted(disk: Disk, last_lsn: int, under_way: Sequence[Piece], done: Sequence[Any], sent: Sent) -> None:
    """The records up to `last_lsn`, of some of the writes: those that were replied to are among them."""
    admitted = last_lsn - disk.model.last_lsn
    assert len(done) <= admitted <= len(under_way)
    disk.model.apply(under_way, sent, admitted)
    seen = served(disk.daemon.uri(disk.name, f"lsn:{last_lsn}"), disk.model.size)
    disk.model.pin_down(last_lsn, seen)
    assert all(seen[offset : offset + len(content)] == content for offset, content in done)


def _when(lsn: int | None) -> AtLsn | None:
    return None if lsn is None else AtLsn(lsn)
