"""The words of bookmarks and retention on the command line."""

from __future__ import annotations

import time

import pytest

from cdp.cli.bookmark import expiry
from cdp.cli.output import bookmark_terms, human_span
from cdp.errors import Invalid
from cdp.facts import BookmarkFacts
from cdp.when import SECOND


@pytest.mark.parametrize(
    "text", ["2027-01-31T12:00:00Z", "2027-01-31 12:00:00z", "@1801396800", "2027-01-31T13:00:00+01:00"]
)
def test_a_bookmark_expires_at_a_time(text: str) -> None:
    assert expiry(text) == 1801396800 * SECOND


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * 86400), ("1d12h", 36 * 3600), ("90s", 90)])
def test_a_bookmark_expires_after_a_time(text: str, seconds: int) -> None:
    before = time.time_ns()
    assert before <= expiry(text) - seconds * SECOND <= time.time_ns()


@pytest.mark.parametrize("text", ["", "soon", "30", "30x", "-30d", "latest", "lsn:5", "forever"])
def test_when_no_bookmark_can_expire(text: str) -> None:
    with pytest.raises(Invalid):
        expiry(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "forever"),
        (0, "0s"),
        (59, "59s"),
        (3600, "1h"),
        (90061, "1d 1h"),
        (366 * 86400, "1y 1d"),
        (86401, "1d 1s"),
    ],
)
def test_spans_for_people(seconds: int | None, text: str) -> None:
    assert human_span(seconds) == text


def test_terms_of_a_bookmark() -> None:
    assert bookmark_terms(BookmarkFacts("a", 1, 1, 1)) == ""
    assert bookmark_terms(BookmarkFacts("a", 1, 1, 1, True, 0)) == "held, expires 1970-01-01T00:00:00.000000000Z"
