"""Plans over years of synthetic time: what the policy promises is kept, exactly that, and nothing that went comes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.retention.plan import STEPS_MAX, plan
from cdp.retention.policy import Policy
from cdp.retention.state import DAY, HOUR, MINUTE, SECOND, Mark, Pin
from tests.property.synthetic_history import Synthetic, ideal_points

START = 1_700_000_000 * SECOND
SPANS = st.sampled_from([0, 1, 90, 3600, 86400, 7 * 86400, 400 * 86400, None])
WIDTHS = (MINUTE, HOUR, DAY)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    every_write, minutes, hours, days = (draw(SPANS) for _ in range(4))
    return Policy(every_write=every_write, minutes=minutes, hours=hours, days=days, minimum=0)


# A burst of writes after a silence: (silence, number of writes, time between them, every how many a flush).
BURSTS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 5 * SECOND), st.integers(0, 3 * HOUR), st.integers(0, 60 * DAY)),
        st.integers(1, 30),
        st.one_of(st.integers(0, SECOND), st.integers(0, 20 * MINUTE)),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=25,
)


def burst(history: Synthetic, now: int, silence: int, count: int, gap: int, flush_every: int) -> int:
    """Writes it; the time afterwards."""
    now += silence
    for number in range(count):
        now += gap
        history.write(now, flush=number % flush_every == flush_every - 1, block=number)
    return now


def widths(policy: Policy, now: int) -> list[tuple[int, int | None]]:
    spans = (policy.minutes, policy.hours, policy.days)
    pairs = zip(WIDTHS, spans, strict=True)
    return [(width, None if span is None else now - span * SECOND) for width, span in pairs if span != 0]


def check_promises(history: Synthetic, policy: Policy, now: int) -> None:
    assert history.points == ideal_points(history, widths(policy, now), now)
    if policy.every_write is None:
        assert history.horizon == 0
        return
    since = now - policy.every_write * SECOND
    assert all(history.reachable(record.lsn) for record in history.records if record.stamp > since)
    # The state at the window's very beginning, too: the horizon is at or before it.
    assert history.records[history.horizon].stamp <= since or history.horizon == 0
    # And it does not lag by more than its steps.
    late = [record for record in history.records[history.horizon + 1 :] if record.stamp <= since - STEPS_MAX]
    assert not late


@given(policies(), BURSTS, st.lists(st.booleans(), min_size=25, max_size=25))
@settings(max_examples=300)
def test_what_is_promised_is_kept_and_no_more(
    policy: Policy, bursts: list[tuple[int, int, int, int]], planned: list[bool]
) -> None:
    history, now = Synthetic(START), START
    for one, at_once in zip(bursts, planned, strict=False):
        now = burst(history, now, *one)
        if at_once:
            history.apply(plan(policy, history.facts(), now))
            check_promises(history, policy, now)
    history.apply(plan(policy, history.facts(), now))
    check_promises(history, policy, now)
    again = plan(policy, history.facts(), now)
    assert not again.changes(history.facts())
    assert again.given_up == ()


@given(policies(), BURSTS)
def test_who_does_not_write_loses_nothing(policy: Policy, bursts: list[tuple[int, int, int, int]]) -> None:
    history, now = Synthetic(START), START
    for one in bursts:
        now = burst(history, now, *one)
    history.apply(plan(policy, history.facts(), now))
    assert not plan(policy, history.facts(), now + 3000 * DAY).changes(history.facts())


@given(st.lists(policies(), min_size=2, max_size=6), BURSTS)
def test_a_changed_policy_brings_nothing_back(several: list[Policy], bursts: list[tuple[int, int, int, int]]) -> None:
    history, now = Synthetic(START), START
    for number, one in enumerate(bursts):
        now = burst(history, now, *one)
        policy = several[number % len(several)]
        before = {record.lsn for record in history.records if history.reachable(record.lsn)}
        history.apply(plan(policy, history.facts(), now))  # Asserts that all it keeps was reachable.
        after = {record.lsn for record in history.records if history.reachable(record.lsn)}
        assert after <= before
        assert not plan(policy, history.facts(), now).changes(history.facts())


@given(policies(), BURSTS, st.data())
def test_bookmarks_stay_until_they_expire(
    policy: Policy, bursts: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    history, now = Synthetic(START), START
    alive: dict[str, Mark] = {}
    for number, one in enumerate(bursts):
        now = burst(history, now, *one)
        reachable = [record.lsn for record in history.records if history.reachable(record.lsn)]
        lsn = data.draw(st.sampled_from(reachable))
        life = data.draw(st.none() | st.integers(1, 100 * DAY))
        mark = Mark(f"m{number}", lsn, history.records[lsn].stamp, expires_stamp=None if life is None else now + life)
        history.marks.append(mark)
        alive[mark.name] = mark
        made = plan(policy, history.facts(), now)
        history.apply(made)
        for name in made.drop_marks:
            expires = alive.pop(name).expires_stamp
            assert expires is not None
            assert expires <= now
        assert all(mark.expires_stamp is None or mark.expires_stamp > now for mark in alive.values())
        assert all(history.reachable(mark.lsn) for mark in alive.values())


@given(policies(), BURSTS, st.data())
def test_pins_change_no_promise(policy: Policy, bursts: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    history, now = Synthetic(START), START
    pinned: set[int] = set()
    for one in bursts:
        now = burst(history, now, *one)
        reachable = [record.lsn for record in history.records if history.reachable(record.lsn)]
        history.pins = [Pin(data.draw(st.sampled_from(reachable)), "view")]
        pinned.add(history.pins[0].lsn)
        history.apply(plan(policy, history.facts(), now))
        ideal = ideal_points(history, widths(policy, now), now)
        # A point that was kept for a pin may stay for a bucket that would have none: more than promised, never less.
        assert ideal <= history.points
        assert history.points - pinned <= ideal
        assert history.reachable(history.pins[0].lsn)
        assert not plan(policy, history.facts(), now).changes(history.facts())


@given(policies(), BURSTS, st.lists(st.integers(0, 3 * DAY), min_size=25, max_size=25))
def test_a_clock_that_goes_back_loses_no_more_than_time_does(
    policy: Policy, bursts: list[tuple[int, int, int, int]], back: list[int]
) -> None:
    history, now = Synthetic(START + 400 * DAY), START + 400 * DAY
    for number, one in enumerate(bursts):
        now = burst(history, now - back[number], *one)
        history.apply(plan(policy, history.facts(), now))
        assert history.reachable(len(history.records) - 1)
        assert not plan(policy, history.facts(), now).changes(history.facts())
