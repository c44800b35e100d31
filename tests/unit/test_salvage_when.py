"""WHEN: what is understood, and what is refused."""

from __future__ import annotations

import pytest

from cdp.errors import Invalid
from cdp.salvage.when import Bookmark, Edge, Number, Time, When, parse_when, show_stamp

NOW = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("latest", Edge(True)),
        ("oldest", Edge(False)),
        ("lsn:0", Number(0)),
        ("lsn:18446744073709551615", Number(2**64 - 1)),
        ("bookmark:a.b-C_9", Bookmark("a.b-C_9")),
        ("-90s", Time(NOW - 90 * 10**9)),
        ("-5m", Time(NOW - 300 * 10**9)),
        ("-2h", Time(NOW - 7200 * 10**9)),
        ("-3d", Time(NOW - 259200 * 10**9)),
        ("@1.000000001", Time(1_000_000_001)),
        ("@1.5", Time(1_500_000_000)),
        ("@0", Time(0)),
        ("1970-01-01T00:00:01Z", Time(10**9)),
        ("1970-01-01 00:00:01", Time(10**9)),
        ("1970-01-01T01:00:00.25+01:00", Time(250_000_000)),
        ("1969-12-31T23:00:00-01:00", Time(0)),
        ("2026-02-28T23:59:59.123456789z", Time(1_772_323_199_123_456_789)),
    ],
)
def test_understood(text: str, meant: When) -> None:
    assert parse_when(text, NOW) == meant


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "5m", "-5", "-5w", "lsn:", "lsn:-1", "lsn:1x", "bookmark:", "bookmark:/", "@", "@1.", "@1.0000000001",
        "2026-02-29T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00.Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00+24:00",
        "1969-12-31T23:59:59Z", "lsn:\u0661",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_when(text, NOW)


def test_a_stamp_is_shown_as_it_is_read() -> None:
    for stamp in (0, 1, NOW + 123, 1_772_323_199_123_456_789):
        assert parse_when(show_stamp(stamp), NOW) == Time(stamp)
