"""The timeline: control records read back, minutes counted, everything merged in order, drawn without losing a minute."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp import marks
from cdp.cli.log import HEADINGS, describe, lines
from cdp.errors import Invalid
from cdp.facts import BookmarkFacts, EventFacts, FlushFacts, InstantFacts, IntervalFacts, LogFacts, VolumeFacts
from cdp.timeline import ROWS_MAX, interval_for, interval_text, merge, parse_interval, sparkline
from cdp.when import SECOND, parse

MINUTE = 60 * SECOND


def log_of(
    intervals: tuple[IntervalFacts, ...] = (),
    bookmarks: tuple[BookmarkFacts, ...] = (),
    events: tuple[EventFacts, ...] = (),
    flushes: tuple[FlushFacts, ...] = (),
) -> LogFacts:
    ends = InstantFacts(0, 0, 0)
    volume = VolumeFacts("0" * 32, "ok", "disk")
    return LogFacts(volume, ends, ends, 60, intervals, flushes, 0, bookmarks, events, 0)


def minute(number: int, raw_bytes: int) -> IntervalFacts:
    return IntervalFacts(number * MINUTE, 1, 0, raw_bytes, raw_bytes // 3, raw_bytes // 10, 1, 77)


def test_the_newest_bookmark_of_a_name_counts() -> None:
    controls = [
        (3, 30, marks.bookmark_record("a", 1, 10)),
        (4, 40, marks.bookmark_record("b", 2, 20)),
        (5, 50, marks.bookmark_record("a", 4, 40)),
        (6, 60, marks.removal_record("b")),
        (7, 70, marks.removal_record("never")),
    ]
    assert marks.bookmarks(controls) == {"a": BookmarkFacts("a", 4, 40, 50)}
    assert marks.events(controls) == []


def test_a_removed_name_can_be_given_again() -> None:
    controls = [
        (3, 30, marks.bookmark_record("a", 1, 10)),
        (4, 40, marks.removal_record("a")),
        (5, 50, marks.bookmark_record("a", 2, 20)),
    ]
    assert marks.bookmarks(controls)["a"].lsn == 2


def test_records_are_as_documented() -> None:
    assert json.loads(marks.bookmark_record("a", 1, 10)) == {"type": "bookmark", "name": "a", "lsn": 1, "stamp": 10}
    assert json.loads(marks.removal_record("a")) == {"type": "bookmark-removed", "name": "a"}
    assert json.loads(marks.event_record("recovery", cut=3)) == {"type": "event", "event": "recovery", "cut": 3}


def test_events_keep_their_details_and_unknown_records_are_shown() -> None:
    controls = [
        (1, 10, b'{"type":"event","event":"recovery","cut_lsn":7}'),
        (2, 20, b'{"type":"resize","size":512}'),
        (3, 30, b"\xff not json"),
        (4, 40, b"[1]"),
    ]
    assert marks.events(controls) == [
        EventFacts(1, 10, "recovery", {"cut_lsn": 7}),
        EventFacts(2, 20, "resize", {"size": 512}),
        EventFacts(3, 30, "unreadable", {}),
        EventFacts(4, 40, "unreadable", {}),
    ]


@given(st.lists(st.tuples(st.integers(0), st.integers(0), st.binary() | st.text().map(str.encode))))
def test_no_control_record_breaks_the_reader(controls: list[tuple[int, int, bytes]]) -> None:
    marks.bookmarks(controls)
    assert len(marks.events(controls)) <= len(controls)


def test_an_interval_is_read_as_it_is_printed() -> None:
    for text in ("1s", "10s", "90s", "1m", "5m", "90m", "1h", "36h", "1d", "28d"):
        assert interval_text(parse_interval(text)) == text
    assert interval_text(parse_interval("120s")) == "2m"
    for wrong in ("", "0s", "5", "5w", "-5m", "1.5h", "٣s", "5m5s", "36526d", "9" * 20 + "s"):
        with pytest.raises(Invalid):
            parse_interval(wrong)


@given(st.integers(0, 10**20))
def test_we_choose_an_interval_that_makes_a_screen_of_rows(span: int) -> None:
    seconds = interval_for(span)
    assert seconds * SECOND * ROWS_MAX >= span
    assert parse_interval(interval_text(seconds)) == seconds
    # And not many fewer, but where even the shortest interval is long for so little.
    assert seconds == 1 or span > seconds * SECOND * 3


def test_five_minutes_are_shown_by_ten_seconds_and_a_year_by_weeks_or_so() -> None:
    assert interval_for(5 * MINUTE) == 10
    assert interval_for(60 * MINUTE) == 120
    assert interval_for(24 * 60 * MINUTE) == 3600
    assert interval_for(365 * 24 * 60 * MINUTE) == 28 * 86400


def test_rows_are_in_the_order_of_time_and_a_minute_comes_before_what_is_in_it() -> None:
    log = log_of(
        (minute(1, 1), minute(3, 1)),
        (BookmarkFacts("late", 9, 3 * MINUTE, 0), BookmarkFacts("early", 2, MINUTE + 5, 0)),
        (EventFacts(8, 3 * MINUTE, "recovery", {}), EventFacts(1, MINUTE - 1, "first", {})),
    )
    assert [(row.kind, row.stamp, row.lsn) for row in merge(log)] == [
        ("event", MINUTE - 1, 1),
        ("activity", MINUTE, None),
        ("bookmark", MINUTE + 5, 2),
        ("activity", 3 * MINUTE, None),
        ("event", 3 * MINUTE, 8),
        ("bookmark", 3 * MINUTE, 9),
    ]


def test_a_sparkline_shows_silence_little_and_much() -> None:
    assert sparkline(log_of((minute(10, 1), minute(12, 1000), minute(13, 500))), 80) == ("▁ █▄", 60)
    assert sparkline(log_of(), 80) == ("", 60)
    assert sparkline(log_of((minute(10, 0),)), 80) == (" ", 60)


@given(st.dictionaries(st.integers(0, 600_000), st.integers(1, 10**12), min_size=1), st.integers(1, 300))
def test_a_sparkline_fits_and_no_written_minute_looks_silent(written: dict[int, int], columns: int) -> None:
    bars, step = sparkline(log_of(tuple(minute(m, written[m]) for m in sorted(written))), columns)
    first = min(written)
    assert len(bars) <= columns
    assert {(m - first) // (step // 60) for m in written} == {place for place, bar in enumerate(bars) if bar != " "}
    assert "█" in bars


def long_log() -> LogFacts:
    details = {
        "path": "/a-folder/with a long name/" + "x" * 90,
        "size": 1 << 40,
        "cut_lsn": 17,
        "seen_stamp": 30_000_000 * MINUTE,
    }
    return log_of(
        tuple(minute(n, 10**n) for n in range(1, 16)),
        (BookmarkFacts("before-the-" + "very-" * 20 + "big-upgrade", 9, 3 * MINUTE, 0),),
        (EventFacts(8, 3 * MINUTE, "origin-accepted", details),),
        (FlushFacts(7, 2 * MINUTE + 1),),
    )


@pytest.mark.parametrize("width", [30, 50, 60, 80, 100, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    printed = list(lines(long_log(), width))
    # The narrowest is for time, writes and bytes.
    assert max(len(line) for line in printed[:3]) <= 60
    assert max(len(line) for line in printed[3:]) <= max(width, 41)
    assert "LAST FLUSH" in " ".join(printed) or width < 100


def test_a_pipe_gets_everything_and_a_thing_a_line() -> None:
    log = long_log()
    printed = list(lines(log, None))
    (heading,) = [line for line in printed if line.startswith("TIME")]
    assert all(name in heading for name in HEADINGS)
    assert len(printed) == 3 + 1 + 1 + len(merge(log)) + 1
    (event,) = [line for line in printed if "origin-accepted" in line]
    assert event.endswith("  size=1 TiB  cut_lsn=lsn:17  seen=2027-01-15T08:00:00.000000000Z")


def test_events_are_told_in_words() -> None:
    events = [
        EventFacts(5, MINUTE, "rollback", {"to": 3}),
        EventFacts(6, MINUTE, "clock-step", {"from": 30_000_000 * MINUTE, "to": 29_000_000 * MINUTE}),
        EventFacts(7, MINUTE, "stall", {"reason": "disk", "began": 30_000_000 * MINUTE}),
        EventFacts(8, MINUTE, "history-shortened", {"reason": "a b", "used": 3 << 20, "soft": 5}),
        EventFacts(9, MINUTE, "recovery", {"last_lsn": 7, "cut_lsn": None, "damage": 0}),
    ]
    assert [describe(event) for event in events] == [
        "rollback  to=lsn:3",
        "clock-step  from=2027-01-15T08:00:00.000000000Z  to=2025-02-19T21:20:00.000000000Z",
        "stall  reason=disk  began=2027-01-15T08:00:00.000000000Z",
        'history-shortened  reason="a b"  used=3 MiB  soft=5 B',
        "recovery  last_lsn=lsn:7  cut_lsn=null  damage=0",
    ]


def test_what_is_printed_can_be_pasted_as_a_when() -> None:
    rows = [line.split()[0] for line in lines(long_log(), None) if line.startswith("1970")]
    assert len(rows) == 18
    assert {str(parse(time)) for time in rows} >= {str(parse("1970-01-01T00:03:00Z"))}
