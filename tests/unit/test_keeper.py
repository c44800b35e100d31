"""A volume under a real budget: writes go on, and what has to give way does, in its order, until only what must not go is left."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp import marks
from cdp.errors import CdpError, Io, NoSpace
from cdp.keeper import Growth
from cdp.store import LocalStore, Transient
from cdp.volume import OpenVolume
from cdp.when import Latest

MIB = 1 << 20
SIZE = 8 * MIB
BUDGET = 64 * MIB
"""Leaves 48 MiB for the volume: the disk itself, and five others of its size."""
PATIENCE_SECONDS = 60.0


@pytest.fixture
def opened(store: Path) -> Iterator[OpenVolume]:
    local = LocalStore(store)
    local.create("disk", SIZE, 4096, None)
    with Transient(local.catalog).writing(local.catalog.find("disk")) as volume:
        yield volume


def overwrite(opened: OpenVolume) -> None:
    """The whole disk, with bytes that do not shrink; the keeper makes room for them meanwhile."""

    def work() -> None:
        for offset in range(0, SIZE, MIB):
            opened.native.write(offset, os.urandom(MIB))

    writer = threading.Thread(target=work)
    writer.start()
    keep_until(opened, lambda: not writer.is_alive())
    opened.native.flush()


@contextmanager
def written_on(opened: OpenVolume) -> Iterator[Callable[[], int]]:
    """Somebody overwrites the disk again and again; the bytes so far."""
    stop = threading.Event()
    done = [0]

    def work() -> None:
        while not stop.is_set():
            try:
                opened.native.write(done[0] % SIZE, os.urandom(MIB))
            except CdpError:
                return
            done[0] += MIB

    writer = threading.Thread(target=work)
    writer.start()
    try:
        yield lambda: done[0]
    finally:
        stop.set()
        # A writer that waits for room is let go with room.
        opened.set_policy({"budget": "none"})
        writer.join()


def keep_until(opened: OpenVolume, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline, (opened.native.space(), opened.native.reach(), told(opened))
        opened.keep()
        time.sleep(0.02)


def told(opened: OpenVolume) -> list[str]:
    return [event.event for event in marks.events(opened.native.controls()) if event.event != "policy"]


def test_what_gives_way_and_in_which_order(opened: OpenVolume) -> None:
    opened.set_policy({"minimum": "1h", "budget": str(BUDGET), "thin": "yes"})
    overwrite(opened)
    held = opened.add_bookmark("held", Latest(), held=True)
    overwrite(opened)
    view = opened.native.view(opened.native.latest().lsn)
    for name in ("first", "second", "third", "fourth"):
        overwrite(opened)
        opened.add_bookmark(name, Latest())
    with written_on(opened) as written:
        keep_until(opened, lambda: "bookmark-given-up" in told(opened))
        before = written()
        keep_until(opened, lambda: written() > before + 3 * SIZE)
        assert opened.native.space()["used"] <= BUDGET
    events = told(opened)
    order = ["view-closed", "minimum-broken", "bookmark-given-up"]
    assert [events.index(event) for event in order] == sorted(events.index(event) for event in order)
    with pytest.raises(Io, match="given up"):
        view.read(0, 512)
    names = {mark.name for mark in opened.bookmarks()}
    assert "held" in names
    assert "first" not in names
    lost = [json.loads(data) for _, _, data in opened.native.controls() if b"bookmark-given-up" in data]
    assert [record["name"] for record in lost] == ["first", "second", "third", "fourth"][: len(lost)]
    assert opened.native.view(held.lsn).read(0, 512)
    # One event a condition, however many steps it took.
    assert events.count("history-shortened") <= 1
    assert events.count("minimum-broken") - events.count("minimum-holds") == 1


def test_held_bookmarks_stall_the_volume_and_letting_one_go_ends_it(opened: OpenVolume) -> None:
    opened.set_policy({"minimum": "0", "budget": str(BUDGET), "thin": "yes"})
    with written_on(opened) as written:
        number = 0
        while not opened.native.space()["stalled"] or number < 6:
            assert number < 20
            before = written()
            keep_until(opened, lambda at=before: written() >= at + SIZE or opened.native.space()["stalled"])  # type: ignore[misc]
            opened.add_bookmark(f"held{number}", Latest(), held=True)
            number += 1
        for _ in range(20):
            opened.keep()
        assert len(opened.bookmarks()) == number
        assert "bookmark-given-up" not in told(opened)
        stuck = written()
        for mark in opened.bookmarks()[: number // 2 + 1]:
            opened.remove_bookmark(mark.name)
        keep_until(opened, lambda: written() > stuck + SIZE)


@pytest.mark.parametrize("full", ["stall", "fail"])
def test_who_rather_waits_or_fails_gives_nothing_up(opened: OpenVolume, full: str) -> None:
    opened.set_policy({"budget": str(BUDGET), "thin": "yes", "full": full})
    with written_on(opened) as written:
        keep_until(opened, lambda: _is_full(opened, full))
        for _ in range(20):
            opened.keep()
        assert opened.native.reach()["horizon"] == 0
        assert written() >= 3 * SIZE
        assert "history-shortened" not in told(opened)
        # Another policy lets writes go on.
        opened.set_policy({"full": "drop-oldest", "minimum": "0"})
        overwrite(opened)
        assert "history-shortened" in told(opened)


def _is_full(opened: OpenVolume, full: str) -> bool:
    if full == "stall":
        return bool(opened.native.space()["stalled"])
    try:
        opened.native.write(0, os.urandom(MIB))
    except NoSpace:
        return True
    return False


def test_a_budget_that_is_set_too_late_is_kept_to_all_the_same(opened: OpenVolume) -> None:
    # Without a budget segments are large: all of it lies in the one that is being written.
    for _ in range(7):
        overwrite(opened)
    assert opened.native.space()["used"] > BUDGET - 16 * MIB
    opened.set_policy({"minimum": "0", "budget": str(BUDGET), "thin": "yes"})
    with written_on(opened) as written:
        keep_until(opened, lambda: written() > SIZE)
    assert "history-shortened" in told(opened)


def test_growth_is_foreseen_for_a_second_and_its_rate_does_not_depend_on_the_pace_of_rounds() -> None:
    for seconds in (0.1, 1.0, 10.0):
        growth = Growth()
        growth.grown_to(0, 6400, 0.0)
        growth.grown_to(int(200 * seconds), 6400, seconds)
        assert (growth.ahead, growth.fast) == (int(200 * min(seconds, 1.0)), True)
        growth.grown_to(int(250 * seconds), 6400, 2 * seconds)
        assert not growth.fast
