"""Policies as people write them, as records, and what no policy can be."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp.errors import Invalid
from cdp.retention import policy, spans
from cdp.retention.policy import DEFAULT, Full, Policy

DAY = 86400
FULLS: tuple[Full, ...] = get_args(Full)
SPANS = st.none() | st.integers(0, spans.SPAN_MAX)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    every_write, minutes, hours, days = (draw(SPANS) for _ in range(4))
    longest = spans.longest(every_write, minutes, hours, days)
    return Policy(
        every_write,
        minutes,
        hours,
        days,
        minimum=draw(st.integers(0, spans.SPAN_MAX if longest is None else longest)),
        budget=draw(st.none() | st.integers(1, policy.BUDGET_MAX)),
        full=draw(st.sampled_from(FULLS)),
        thin=draw(st.booleans()),
    )


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", 90),
        ("15m", 900),
        ("24h", DAY),
        ("2d", 2 * DAY),
        ("2w", 14 * DAY),
        ("1y", 365 * DAY),
        ("1d12h", 36 * 3600),
        ("0", 0),
        ("0s", 0),
        ("forever", None),
    ],
)
def test_spans(text: str, span: int | None) -> None:
    assert spans.parse(text) == span


@pytest.mark.parametrize(
    "text", ["", "1", "h", "-1h", "1.5h", "1 h", "1mo", "for ever", "1001y", "1h" * 60, "٣h", "1h\n"]
)
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(Invalid, match=r"length of time|longer"):
        spans.parse(text)


@given(SPANS)
def test_spans_are_printed_as_they_are_read(span: int | None) -> None:
    assert spans.parse(spans.text(span)) == span


@given(policies(), policies())
def test_settings_say_all_of_a_policy(one: Policy, other: Policy) -> None:
    assert policy.changed(other, policy.settings(one)) == one


@given(policies())
def test_a_record_says_all_of_a_policy(one: Policy) -> None:
    assert policy.decode(policy.encode(one)) == one


def test_the_record_is_as_documented() -> None:
    assert json.loads(policy.encode(DEFAULT)) == {
        "type": "policy",
        "every_write": "1d",
        "minutes": "2d",
        "hours": "2w",
        "days": "1y",
        "minimum": "1h",
        "budget": None,
        "full": "drop-oldest",
        "thin": False,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("every_write", "soon"),
        ("minimum", "forever"),
        ("minimum", "2y"),
        ("budget", "0"),
        ("budget", "-1"),
        ("budget", "10GiB"),
        ("budget", "9" * 20),
        ("full", "panic"),
        ("thin", "perhaps"),
        ("colour", "red"),
    ],
)
def test_what_no_policy_can_be(name: str, text: str) -> None:
    with pytest.raises(Invalid):
        policy.changed(DEFAULT, {name: text})


def test_the_newest_policy_counts_and_others_are_left_aside() -> None:
    first, second = Policy(days=0), Policy(budget=1 << 40)
    controls = [
        (1, 10, policy.encode(first)),
        (2, 20, policy.encode(second)),
        (3, 30, b'{"type":"policy","full":"a later version\'s"}'),
        (4, 40, b'{"type":"event","event":"policy"}'),
        (5, 50, b'"policy"'),
    ]
    assert policy.newest(controls) == (second, 20)
    assert policy.newest(controls[2:]) == (DEFAULT, None)


@given(st.lists(st.tuples(st.integers(0), st.integers(0), st.binary() | st.text().map(lambda t: t.encode()))))
def test_no_record_breaks_the_reader(controls: list[tuple[int, int, bytes]]) -> None:
    policy.newest([(lsn, stamp, b'"policy"' + data) for lsn, stamp, data in controls])


def test_a_budget_that_the_live_disk_could_outgrow_needs_a_promise() -> None:
    size = 1 << 40
    with pytest.raises(Invalid, match="--thin"):
        policy.check_budget(Policy(budget=size), size)
    policy.check_budget(Policy(budget=size, thin=True), size)
    policy.check_budget(Policy(), size)
    policy.check_budget(Policy(budget=policy.least_budget(size)), size)


@pytest.mark.parametrize("size", [1 << 29, 1 << 30, 1 << 34, 1 << 40])
def test_a_budget_of_four_thirds_of_a_volume_is_enough(size: int) -> None:
    assert policy.least_budget(size) <= size * 13 // 10
