"""WHEN: what it means, what it refuses, and that its parser is total."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp.description import STAMP_MAX
from cdp.errors import Invalid, NotFound
from cdp.when import (
    SECOND,
    Ago,
    At,
    AtBookmark,
    AtLsn,
    Latest,
    Moment,
    Oldest,
    When,
    below_horizon,
    parse,
    relative,
    resolve,
    rfc3339,
)

T = 1_795_344_500 * SECOND


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("latest", Latest()),
        ("oldest", Oldest()),
        ("lsn:0", AtLsn(0)),
        ("lsn:18446744073709551615", AtLsn(2**64 - 1)),
        ("bookmark:before-upgrade_1.2", AtBookmark("before-upgrade_1.2")),
        ("-90s", Ago(90 * SECOND)),
        ("-5m", Ago(300 * SECOND)),
        ("-2h", Ago(7200 * SECOND)),
        ("-3d", Ago(3 * 86400 * SECOND)),
        ("-0s", Ago(0)),
        ("@1795344500", At(T)),
        ("@1795344500.5", At(T + SECOND // 2)),
        ("@1795344500.000000001", At(T + 1)),
        ("2026-11-22T10:48:20Z", At(T)),
        ("2026-11-22T10:48:20", At(T)),
        ("2026-11-22 10:48:20", At(T)),
        ("2026-11-22t10:48:20z", At(T)),
        ("2026-11-22T12:48:20+02:00", At(T)),
        ("2026-11-22T05:18:20-05:30", At(T)),
        ("2026-11-22T10:48:20.123456789Z", At(T + 123456789)),
        ("2026-11-22T10:48:20.1+00:00", At(T + 100_000_000)),
        ("1970-01-01T00:00:00Z", At(0)),
        ("2024-02-29T23:59:59Z", At(int(datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp()) * SECOND)),
    ],
)
def test_reads(text: str, when: When) -> None:
    assert parse(text) == when


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "Latest",
        "latest ",
        " latest",
        "latest\n",
        "lsn:",
        "lsn:-1",
        "lsn:1.0",
        "lsn:18446744073709551616",
        "lsn:" + "9" * 5000,
        "lsn:٣",
        "bookmark:",
        "bookmark:-x",
        "bookmark:" + "x" * 129,
        "-5",
        "-5w",
        "-1.5h",
        "--5m",
        "5m",
        "-" + "9" * 150 + "d",
        "@",
        "@-1",
        "@1.",
        "@1.0000000001",
        "@18446744074",
        "2026-11-22",
        "2026-11-22T10:48Z",
        "2026-11-22T10:48:20.Z",
        "2026-11-22T10:48:20.1234567890Z",
        "2026-02-30T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T10:60:00Z",
        "2016-12-31T23:59:60Z",
        "2026-11-22T10:48:20+2:00",
        "2026-11-22T10:48:20+24:00",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "9999-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(Invalid):
        parse(text)


stamps = st.integers(0, STAMP_MAX)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
whens: st.SearchStrategy[When] = st.one_of(
    st.just(Latest()),
    st.just(Oldest()),
    stamps.map(At),
    st.integers(0, STAMP_MAX // SECOND).map(lambda seconds: Ago(seconds * SECOND)),
    st.integers(0, 2**64 - 1).map(AtLsn),
    names.map(AtBookmark),
)


@given(whens)
def test_round_trip(when: When) -> None:
    assert parse(str(when)) == when


@given(stamps)
def test_unix_time_is_exact(stamp: int) -> None:
    assert parse(f"@{stamp // SECOND}.{stamp % SECOND:09}") == At(stamp)


@given(st.integers(0, STAMP_MAX // SECOND))
def test_calendar_agrees_with_the_library(seconds: int) -> None:
    expected = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert rfc3339(seconds * SECOND) == f"{expected}.000000000Z"


alphabet = "0123456789-+:.@TtZz smhdlnbokarLSNeE"
near_misses = st.one_of(
    st.text(), st.text(alphabet), st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T.*"), st.text().map("lsn:".__add__)
)


@given(near_misses)
def test_nothing_but_invalid(text: str) -> None:
    try:
        when = parse(text)
    except Invalid:
        return
    assert parse(str(when)) == when


def test_what_is_relative() -> None:
    assert [relative(parse(text)) for text in ("latest", "oldest", "-5m")] == [True, True, True]
    assert [relative(parse(text)) for text in ("lsn:5", "@5", "bookmark:b", "2026-11-22T10:48:20Z")] == [False] * 4


@dataclass(frozen=True)
class Point:
    lsn: int
    stamp: int
    clock_epoch: int = 0
    other: int | None = None


class Records:
    """A history as the engine would answer for it: records 2, 4, 6 … 20 at T, T+1s, …; LSN 0 is the creation, ten seconds before."""

    def __init__(self, horizon: int = 0, points: tuple[int, ...] = ()) -> None:
        whole = [Point(0, T - 10 * SECOND)] + [Point(2 * i, T + (i - 1) * SECOND) for i in range(1, 11)]
        self.points = [point for point in whole if point.lsn >= horizon or point.lsn in points]
        self.horizon = horizon

    def latest(self) -> Moment:
        return self.points[-1]

    def oldest(self) -> Moment:
        return self.points[0]

    def instant_of_lsn(self, lsn: int) -> Moment:
        found = [point for point in self.points if point.lsn == lsn]
        if not found:
            raise NotFound("engine: no such record")
        return found[0]

    def instant_at(self, stamp: int) -> Moment:
        found = [point for point in self.points if point.stamp <= stamp]
        if not found:
            raise NotFound("engine: before creation")
        return found[-1]

    def reach(self) -> dict[str, Any]:
        below = [(point.lsn, point.stamp, 0) for point in self.points if point.lsn < self.horizon]
        return {
            "horizon": self.horizon,
            "horizon_stamp": self.instant_of_lsn(self.horizon).stamp,
            "points": below,
        }


NOW = T + 100 * SECOND


@pytest.mark.parametrize(
    ("text", "lsn"),
    [
        ("latest", 20),
        ("oldest", 0),
        ("lsn:4", 4),
        ("bookmark:good", 8),
        (rfc3339(T), 2),
        (rfc3339(T + 1), 2),
        (rfc3339(T - 1), 0),
        ("-100s", 2),
        ("-99s", 4),
        ("-1s", 20),
        ("-0s", 20),
    ],
)
def test_resolves(text: str, lsn: int) -> None:
    assert resolve(Records(), {"good": 8}, parse(text), NOW).lsn == lsn


@pytest.mark.parametrize(
    "text", ["lsn:3", "lsn:21", "bookmark:bad", "-111s", "-9999d", rfc3339(T - 11 * SECOND), rfc3339(NOW + 1), "@0"]
)
def test_a_refusal_names_the_range(text: str) -> None:
    with pytest.raises(NotFound) as refused:
        resolve(Records(), {"good": 8}, parse(text), NOW)
    sentence = str(refused.value)
    assert f"lsn:0 ({rfc3339(T - 10 * SECOND)})" in sentence
    assert f"lsn:20 ({rfc3339(T + 9 * SECOND)})" in sentence


def test_the_range_that_a_refusal_names_can_be_reached() -> None:
    with pytest.raises(NotFound) as refused:
        resolve(Records(), {}, AtLsn(3), NOW)
    words = str(refused.value).replace("(", "").replace(")", "").split()
    ends = [word for word in words if word.startswith("lsn:")][1:] + [word for word in words if word.endswith("Z")]
    assert [resolve(Records(), {}, parse(word), NOW).lsn for word in ends] == [0, 20, 0, 20]


@pytest.mark.parametrize(
    ("lsn", "near"),
    [
        (2, "one is lsn:4"),
        (6, "ones are lsn:4 and lsn:8"),
        (10, "ones are lsn:8 and lsn:14"),
        (12, "ones are lsn:8 and lsn:14"),
    ],
)
def test_the_neighbours_of_what_was_given_up(lsn: int, near: str) -> None:
    history = Records(14, (4, 8))
    with pytest.raises(NotFound) as refused:
        resolve(history, {}, AtLsn(lsn), NOW)
    sentence = re.sub(r" \([^)]*\)", "", str(refused.value))
    assert f"is no recovery point any more: the nearest {near};" in sentence
    assert sentence.endswith("from lsn:4 to lsn:20: every write from lsn:14 on, and 2 instants before that")


def test_a_number_that_never_was_has_no_neighbours() -> None:
    with pytest.raises(NotFound, match="lsn:15 is no recovery point; what"):
        resolve(Records(14, (4, 8)), {}, AtLsn(15), NOW)


@pytest.mark.parametrize(
    ("text", "below"),
    [(rfc3339(T + 4 * SECOND), True), (rfc3339(T + 6 * SECOND), False), ("lsn:8", False), ("oldest", False)],
)
def test_which_times_another_instant_stands_for(text: str, below: bool) -> None:
    history, wanted = Records(14, (4, 8)), parse(text)
    assert below_horizon(history, resolve(history, {}, wanted, NOW), wanted) == below
