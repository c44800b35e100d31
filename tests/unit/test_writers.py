"""Writers: known from before their first request, ended and kept out while a volume is barred."""

from __future__ import annotations

import itertools

import pytest

from cdp.errors import Busy
from cdp.writers import Writers

numbers = itertools.count(1)


@pytest.fixture
def ended() -> list[int]:
    return []


@pytest.fixture
def writers(ended: list[int]) -> Writers:
    return Writers(ended.append)


def attach() -> int:
    return next(numbers)


def test_nobody_is_asked_to_go_who_does_not_write(writers: Writers, ended: list[int]) -> None:
    writers.enter("other", attach)
    with writers.barred("disk", force=False) as count:
        assert count == 0
    assert ended == []


def test_writers_go_only_by_force(writers: Writers, ended: list[int]) -> None:
    sessions = [writers.enter("disk", attach) for _ in range(2)]
    with pytest.raises(Busy, match="2 writable connections"), writers.barred("disk", force=False):
        pytest.fail("they were barred")
    assert ended == []
    with writers.barred("disk", force=True) as count:
        assert (count, ended) == (2, sessions)


def test_nobody_comes_in_meanwhile_and_everybody_after(writers: Writers) -> None:
    with writers.barred("disk", force=False):
        with pytest.raises(Busy, match="connect again"):
            writers.enter("disk", lambda: pytest.fail("it was attached"))
        with pytest.raises(Busy, match="another command"), writers.barred("disk", force=True):
            pytest.fail("it was barred twice")
        writers.enter("other", attach)
    writers.enter("disk", attach)
    assert writers.count("disk") == 1


def test_a_failure_lifts_the_bar(writers: Writers) -> None:
    with pytest.raises(RuntimeError), writers.barred("disk", force=False):
        raise RuntimeError
    writers.enter("disk", attach)


def test_who_left_is_not_counted(writers: Writers, ended: list[int]) -> None:
    session = writers.enter("disk", attach)
    writers.left("disk", session)
    writers.left("disk", session)
    with writers.barred("disk", force=False) as count:
        assert (count, ended) == (0, [])


def test_a_session_that_could_not_begin_is_not_known(writers: Writers) -> None:
    def fail() -> int:
        raise Busy("no room")

    with pytest.raises(Busy, match="no room"):
        writers.enter("disk", fail)
    assert writers.count("disk") == 0
