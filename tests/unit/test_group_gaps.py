"""Gaps of a group: what recoveries, clock steps and notes make of its instants. Small numbers stand for stamps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp.facts import EventFacts
from cdp.group_files import GAPS_MAX, Gap, Group, Pending, with_gaps
from cdp.group_gaps import CLOCK_STEP_MAX, Member, covering, learned, open_gaps, set_back, whole_from, whole_until

GROUP = Group("f" * 32, "g", 0, ("a", "b"))


def member(*events: EventFacts, safe: int | None = None, dirty: bool = False, latest: int = 1000) -> Member:
    """Record N of it has the stamp 10 N; those above 90 are not known any more."""
    return Member("a", events, lambda lsn: 10 * lsn if lsn <= 90 else None, latest, dirty, safe)


def recovery(lsn: int, stamp: int, last_lsn: Any) -> EventFacts:
    return EventFacts(lsn, stamp, "recovery", {"last_lsn": last_lsn, "cut_lsn": None})


@pytest.mark.parametrize(
    ("safe", "since"),
    [
        (None, 51),  # After the last record that was kept.
        (30, 51),  # An older note adds nothing.
        (70, 71),  # Nothing was lost up to the note.
        (250, 51),  # A note of a later run says nothing of this one.
    ],
)
def test_a_recovery_leaves_a_gap_up_to_itself(safe: int | None, since: int) -> None:
    found = learned(GROUP, [member(recovery(20, 200, 5), safe=safe)])
    assert found.gaps == (Gap(since, 200, "crash", "a"),)


@pytest.mark.parametrize("last_lsn", [91, None, "5"])
def test_what_is_not_known_makes_the_gap_longer(last_lsn: object) -> None:
    assert learned(GROUP, [member(recovery(20, 200, last_lsn))]).gaps == (Gap(0, 200, "crash", "a"),)


def test_an_event_counts_once_and_with_the_note_of_its_time() -> None:
    once = learned(GROUP, [member(recovery(20, 200, 5), safe=60)])
    assert once.seen == {"a": 20}
    again = learned(once, [member(recovery(20, 200, 5), recovery(40, 400, 30), safe=350)])
    assert again.gaps == (Gap(61, 200, "crash", "a"), Gap(351, 400, "crash", "a"))
    assert learned(again, [member(recovery(20, 200, 5), recovery(40, 400, 30), safe=500)]) == again


def test_a_step_of_the_clock_covers_what_was_passed_twice() -> None:
    event = EventFacts(7, 300, "clock-step", {"from": 500, "to": 300})
    assert learned(GROUP, [member(event)]).gaps == (Gap(300, 501, "clock", "a"),)
    for odd in ({}, {"from": 1, "to": 2}, {"from": "1", "to": 0}):
        assert learned(GROUP, [member(EventFacts(7, 300, "clock-step", odd))]).gaps == ()


def test_other_events_make_no_gap() -> None:
    found = learned(GROUP, [member(EventFacts(7, 300, "verified", {"last_lsn": 1}))])
    assert (found.gaps, found.seen) == ((), {"a": 7})


def test_a_clock_that_went_back_while_nobody_looked() -> None:
    assert set_back([member(latest=CLOCK_STEP_MAX)], 0) is None
    assert set_back([member(latest=5), member(latest=CLOCK_STEP_MAX + 1)], 0) == Gap(
        0, CLOCK_STEP_MAX + 2, "clock", "a"
    )


def test_gaps_that_have_not_ended() -> None:
    pending = Pending("rollback", 10, 20, {})
    members = [member(dirty=True, latest=50), member(dirty=True, latest=50, safe=70), member()]
    assert open_gaps(pending, members) == [(21, "rollback", None), (51, "crash", "a"), (71, "crash", "a")]
    assert open_gaps(Pending("bookmark", 10, 20, {}), []) == []


GAPS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: Gap(min(ends), max(ends), "crash")))


@given(GAPS, st.integers(0, 30))
def test_the_nearest_instants_outside_of_gaps(gaps: list[Gap], stamp: int) -> None:
    def whole(at: int) -> bool:
        return covering(gaps, at) is None

    assert whole_from(gaps, stamp) == next(at for at in range(stamp, 40) if whole(at))
    assert whole_until(gaps, stamp) == next(at for at in range(stamp, -2, -1) if whole(at))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: Gap(min(ends), max(ends), "crash"))))
def test_too_many_gaps_become_fewer_and_never_shorter(gaps: list[Gap]) -> None:
    many = (*gaps, *(Gap(at, at + 1, "crash") for at in range(100, 102 + GAPS_MAX)))
    kept = with_gaps(GROUP, many).gaps
    assert len(kept) <= GAPS_MAX
    for stamp in [gap.since for gap in many if gap.since < gap.until]:
        assert covering(kept, stamp) is not None
