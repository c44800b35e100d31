"""The engine's history as a plan sees it, on a real journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp import history
from cdp.errors import Invalid, Io
from cdp.retention.policy import Policy
from cdp.store import LocalStore, Transient
from cdp.volume import OpenVolume
from cdp.when import AtLsn, Latest

MIB = 1 << 20


@pytest.fixture
def local(store: Path) -> LocalStore:
    made = LocalStore(store)
    made.create("disk", MIB, 4096, None)
    return made


@pytest.fixture
def opened(local: LocalStore) -> Iterator[OpenVolume]:
    with Transient(local.catalog).writing(local.catalog.find("disk")) as volume:
        yield volume


def write(opened: OpenVolume, number: int) -> int:
    return opened.native.write(number % 256 * 4096, bytes([number % 255 + 1]) * 4096)


def fill(opened: OpenVolume, count: int, flush_every: int) -> list[int]:
    lsns = []
    for number in range(count):
        lsns.append(write(opened, number))
        if number % flush_every == flush_every - 1:
            opened.native.flush()
    opened.native.flush()
    return lsns


def test_records_are_found_by_time_and_by_number(opened: OpenVolume) -> None:
    lsns = fill(opened, 30, 7)
    seen = history.NativeHistory(opened.native)
    assert seen.latest.lsn == lsns[-1]
    for lsn in (0, *lsns):
        here = seen.point(lsn)
        assert here is not None
        assert here.lsn == lsn
        found = seen.last(here.stamp)
        assert found is not None
        assert found.stamp == here.stamp
        assert found.lsn >= lsn
        if lsn:
            below = seen.last(here.stamp, lsn)
            assert below is not None
            assert below.lsn == lsn - 1
    assert seen.last(seen.latest.stamp + 10**18) == seen.latest
    assert seen.last(-1) is None
    assert seen.last(0) is None
    assert seen.point(lsns[-1] + 1) is None


def test_flush_points_and_minutes_are_those_of_the_stretch(opened: OpenVolume) -> None:
    lsns = fill(opened, 30, 7)
    seen = history.NativeHistory(opened.native)
    # The newest flush is noted with the next batch.
    assert set(seen.flushes(lsns[0], lsns[-1] + 1)) == set(lsns[6::7])
    assert seen.flushed == set(lsns[6::7])
    assert list(seen.flushes(lsns[7], lsns[20])) == [lsns[13]]
    assert sum(stored for _, stored in seen.minutes(0, lsns[-1] + 1)) == seen.window_bytes() > 0
    assert sum(stored for _, stored in seen.minutes(lsns[10], lsns[10])) == 0


def test_what_is_not_durable_does_not_count(opened: OpenVolume) -> None:
    durable = fill(opened, 3, 1)[-1]
    write(opened, 9)
    seen = history.NativeHistory(opened.native)
    assert seen.latest.lsn == durable + 1
    assert seen.point(durable + 1) is None
    found = seen.last(2**62)
    assert found is not None
    assert found.lsn == durable


def test_what_was_given_up_is_not_seen(opened: OpenVolume) -> None:
    lsns = fill(opened, 20, 7)
    opened.native.retain(lsns[15], [lsns[3], lsns[6]])
    seen = history.NativeHistory(opened.native)
    assert seen.horizon.lsn == lsns[15]
    assert [(point.lsn, point.flush) for point in seen.points({lsns[3]: False, lsns[6]: True})] == [
        (lsns[3], False),
        (lsns[6], True),
    ]
    assert all(point.flush for point in seen.points({}))
    assert seen.point(lsns[4]) is None
    for lsn in (lsns[3], lsns[15], lsns[18]):
        here = seen.point(lsn)
        assert here is not None
        assert here.lsn == lsn


def test_who_holds_an_instant_is_a_pin(opened: OpenVolume) -> None:
    lsns = fill(opened, 5, 1)
    view = opened.native.view(lsns[2])
    assert [(pin.lsn, pin.closable) for pin in history.pins_of(opened.native)] == [(lsns[2], True)]
    opened.native.retain(lsns[4], [])
    assert view.read(0, 512) == opened.native.view(lsns[2]).read(0, 512)
    assert [point.lsn for point in history.NativeHistory(opened.native).points({})] == [lsns[2]]
    opened.native.close_views(lsns[2])
    with pytest.raises(Io):
        view.read(0, 512)


def test_settings_last(local: LocalStore) -> None:
    entry = local.catalog.find("disk")
    with Transient(local.catalog).writing(entry) as volume:
        volume.set_policy({"every_write": "2h", "budget": str(64 * MIB)})
        with pytest.raises(Invalid, match="--thin"):
            volume.set_policy({"budget": "1000"})
        volume.set_policy({"days": "forever"})
    for read_only in (True, False):
        volume = OpenVolume(entry, read_only=read_only, with_origin=False)
        policy, stamp = volume.policy()
        assert policy == Policy(every_write=7200, days=None, budget=64 * MIB)
        assert stamp is not None
        volume.close()


def test_bookmarks_with_terms(local: LocalStore) -> None:
    entry = local.catalog.find("disk")
    with Transient(local.catalog).writing(entry) as volume:
        now = volume.native.latest().stamp
        with pytest.raises(Invalid, match="expire"):
            volume.add_bookmark("never", Latest(), expires_stamp=now)
        volume.add_bookmark("short", Latest(), expires_stamp=2**62)
        volume.add_bookmark("held", Latest(), held=True)
    with Transient(local.catalog).writing(entry) as volume:
        assert [(mark.name, mark.held, mark.expires_stamp) for mark in volume.bookmarks()] == [
            ("short", False, 2**62),
            ("held", True, None),
        ]
        made = volume.keep(2**62)
        assert made is not None
        assert [(event.event, event.details["name"]) for event in made.given_up] == [("bookmark-expired", "short")]
        assert [mark.name for mark in volume.bookmarks()] == ["held"]
        assert volume.keep(2**62) is None
    assert [event.event for event in local.log("disk", AtLsn(0), Latest()).events] == ["bookmark-expired"]
