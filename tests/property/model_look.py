"""Looking at an instant with every reader: what is kept reads as the model has it, what is not is refused with what can be reached."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from cdp.changes import Point
from cdp.errors import NotFound
from cdp.store import LocalStore
from cdp.when import AtLsn, parse, rfc3339
from tests.property.model_disk import Disk, Reach, remote
from tests.property.model_readers import Refused, restored, salvaged, served


class Instant(NamedTuple):
    """How an instant is asked for, and the LSNs that it may mean, ascending: the newest one that is kept."""

    when: str
    lsns: Sequence[int]

    def meant(self, reach: Reach) -> int | None:
        return max((lsn for lsn in self.lsns if reach.holds(lsn)), default=None)


def of_lsn(lsn: int) -> Instant:
    return Instant(f"lsn:{lsn}", [lsn])


def instants(disk: Disk, count: int, rng: random.Random) -> Iterator[Instant]:
    """By LSN, time and bookmark; of what is kept and of what is not."""
    lsns = disk.model.lsns()
    for number in range(count):
        kind = number % 4
        if kind == 0 and disk.model.bookmarks:
            name = rng.choice(sorted(disk.model.bookmarks))
            yield Instant(f"bookmark:{name}", [disk.model.bookmarks[name]])
        elif kind <= 1:
            # What is dropped is most of it at times, and what is kept, the points above all, has to be seen, too.
            kept = [lsn for lsn in lsns if disk.kept.holds(lsn)]
            yield of_lsn(rng.choice(rng.choice([lsns, kept, sorted(disk.kept.points) or kept])))
        else:
            yield _at_a_time(disk, rng, near=kind == 2)


def _at_a_time(disk: Disk, rng: random.Random, *, near: bool) -> Instant:
    stamps = disk.learn_stamps()
    known = sorted(disk.stamps.values())
    stamp = rng.choice(known) + rng.choice([-1, 0, 1]) if near else rng.randint(known[0], time.time_ns())
    when = f"@{stamp // 10**9}.{stamp % 10**9:09}" if rng.random() < 0.5 else rfc3339(stamp)
    return Instant(when, [lsn for lsn, at in stamps.items() if at <= stamp])


def look(disk: Disk, instant: Instant, step: int) -> bool:
    """Whether all readers were compared: False if the daemon gave something up meanwhile, so that either answer was right."""
    before = disk.reach()
    try:
        seen = served(disk.daemon.uri(disk.name, instant.when), step)
    except Refused:
        seen = None
    lsn = instant.meant(before)
    if lsn is not None and seen is not None:
        disk.model.assert_shows(lsn, seen)
    if lsn is None:
        # What was given up does not come back, whatever happens meanwhile.
        assert seen is None, f"{instant.when} was given up, and is shown"
        _assert_refused(disk, instant)
        return True
    if disk.reach() != before:
        return False
    assert seen is not None, f"{instant.when} is refused, and is kept as LSN {lsn}"
    _assert_read_alike(disk, instant, lsn)
    return True


def _assert_read_alike(disk: Disk, instant: Instant, lsn: int) -> None:
    with remote(disk.daemon.store) as store, store.hold(disk.name, lsn):
        assert store.resolve(disk.name, parse(instant.when)).lsn == lsn
        target = disk.daemon.store.parent / f"{disk.name}.restored"
        disk.model.assert_shows(lsn, restored(store, disk.daemon.store, disk.name, instant.when, target))
        disk.model.assert_shows(lsn, salvaged(disk.daemon.store, disk.name, instant.when))


def _assert_refused(disk: Disk, instant: Instant) -> None:
    """With what can be reached, whoever is asked."""
    with remote(disk.daemon.store) as store:
        for verbs in (store, LocalStore(disk.daemon.store)):
            with pytest.raises(NotFound) as refused:
                verbs.resolve(disk.name, parse(instant.when))
            reach = disk.reach()
            oldest, newest = min({*reach.points, reach.horizon}), disk.model.newest
            assert f"lsn:{oldest} " in str(refused.value)
            assert f"lsn:{newest} " in str(refused.value)
    with pytest.raises(Refused, match="reachable: LSN"):
        salvaged(disk.daemon.store, disk.name, instant.when)


def compare_changes(disk: Disk, since: Disk, rng: random.Random) -> None:
    """What differs between two instants that are kept lies in the extents that are told; `since` may be of the same family."""
    (first, before), (second, after) = (_any_settled(it, rng) for it in (since, disk))
    with remote(disk.daemon.store) as store:
        try:
            with store.diff(disk.name, Point(AtLsn(first), since.name), Point(AtLsn(second))) as found:
                extents = [extent for page in found.pages for extent in page]
        except NotFound:
            assert not (since.reach().holds(first) and disk.reach().holds(second))
            return
    at = 0
    for offset, length in [*extents, (disk.model.size, 0)]:
        same = before[at:offset] == after[at:offset]
        assert same, f"{since.name} lsn:{first} and {disk.name} lsn:{second} differ from {at} to {offset}: not told"
        at = offset + length


def _any_settled(disk: Disk, rng: random.Random) -> tuple[int, bytes]:
    lsn = rng.choice([lsn for lsn in disk.model.settled if disk.kept.holds(lsn)] or [disk.model.newest])
    return lsn, disk.model.settled[lsn]
