"""The timeline: control records read back, minutes counted, everything merged in order, drawn without losing a minute."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from cdp import marks
from cdp.facts import BookmarkFacts, EventFacts, FlushFacts, InstantFacts, LogFacts, MinuteFacts, VolumeFacts
from cdp.timeline import MINUTE, merge, minutes, sparkline


def log_of(
    activity: tuple[MinuteFacts, ...] = (),
    bookmarks: tuple[BookmarkFacts, ...] = (),
    events: tuple[EventFacts, ...] = (),
) -> LogFacts:
    ends = InstantFacts(0, 0, 0)
    return LogFacts(VolumeFacts("0" * 32, "ok", "disk"), ends, ends, activity, (), 0, bookmarks, events)


def minute(number: int, raw_bytes: int) -> MinuteFacts:
    return MinuteFacts(number * MINUTE, 1, 0, raw_bytes, raw_bytes, 0)


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


def test_flush_points_are_counted_in_their_minutes() -> None:
    activity = [(5, 10, 1, 4096, 2048), (7, 1, 0, 512, 512)]
    flushes = [FlushFacts(1, 5 * MINUTE), FlushFacts(2, 6 * MINUTE - 1), FlushFacts(3, 6 * MINUTE)]
    assert minutes(activity, flushes) == (
        MinuteFacts(5 * MINUTE, 10, 1, 4096, 2048, 2),
        MinuteFacts(6 * MINUTE, 0, 0, 0, 0, 1),
        MinuteFacts(7 * MINUTE, 1, 0, 512, 512, 0),
    )


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
    assert sparkline(log_of((minute(10, 1), minute(12, 1000), minute(13, 500))), 80) == ("▁ █▄", 1)
    assert sparkline(log_of(), 80) == ("", 1)
    assert sparkline(log_of((minute(10, 0),)), 80) == (" ", 1)


@given(st.dictionaries(st.integers(0, 600_000), st.integers(1, 10**12), min_size=1), st.integers(1, 300))
def test_a_sparkline_fits_and_no_written_minute_looks_silent(written: dict[int, int], columns: int) -> None:
    bars, step = sparkline(log_of(tuple(minute(m, written[m]) for m in sorted(written))), columns)
    first = min(written)
    assert len(bars) <= columns
    assert {(m - first) // step for m in written} == {place for place, bar in enumerate(bars) if bar != " "}
    assert "█" in bars
