"""A shared budget: it is never exceeded by promises, and the largest give way first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cdp.retention.shares import Sharer, level, share

USED = st.integers(0, 1000)


@given(st.integers(1, 5000), st.lists(st.tuples(USED, st.booleans()), max_size=8))
def test_allowances_never_exceed_the_budget(budget: int, volumes: list[tuple[int, bool]]) -> None:
    sharers = [Sharer(str(number), *volume) for number, volume in enumerate(volumes)]
    allowed = share(budget, sharers)
    assert set(allowed) == {sharer.volume for sharer in sharers if sharer.growing}
    resting = sum(sharer.used for sharer in sharers if not sharer.growing)
    assert sum(allowed.values()) <= max(0, budget - resting)
    if sum(sharer.used for sharer in sharers) <= budget:
        # Nobody has to shrink while there is room.
        assert all(allowed[sharer.volume] >= sharer.used for sharer in sharers if sharer.growing)


@given(st.integers(0, 5000), st.lists(USED, min_size=1, max_size=8))
def test_the_largest_are_cut_to_one_level(room: int, used: list[int]) -> None:
    top = level(room, used)
    if top is None:
        assert sum(used) <= room
    else:
        assert room - len(used) < sum(min(amount, top) for amount in used) <= room


def test_free_space_is_lent_in_equal_parts() -> None:
    assert share(100, [Sharer("a", 50), Sharer("b", 10), Sharer("c", 20, growing=False)]) == {"a": 60, "b": 20}
    assert share(60, [Sharer("a", 50), Sharer("b", 10), Sharer("c", 20, growing=False)]) == {"a": 30, "b": 10}
    assert share(100, []) == {}
