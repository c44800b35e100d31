"""The ends of a comparison: a WHEN, or one of another volume."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp.changes import Point, parse_point
from cdp.errors import Invalid
from cdp.when import SECOND, Ago, At, AtBookmark, AtLsn, Latest


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("lsn:5", Point(AtLsn(5))),
        ("-5m", Point(Ago(300 * SECOND))),
        ("@5", Point(At(5 * SECOND))),
        ("disk@lsn:5", Point(AtLsn(5), "disk")),
        ("disk@@5", Point(At(5 * SECOND), "disk")),
        ("disk@latest", Point(Latest(), "disk")),
        ("disk@bookmark:b", Point(AtBookmark("b"), "disk")),
    ],
)
def test_reads(text: str, point: Point) -> None:
    assert parse_point(text) == point
    assert parse_point(str(point)) == point


@pytest.mark.parametrize("text", ["", "@", "disk", "disk@", "dis k@latest", "disk@lsn:5@lsn:6", "@latest", "bookmark:"])
def test_refuses(text: str) -> None:
    with pytest.raises(Invalid):
        parse_point(text)


@given(st.text() | st.text("disk@:-lsn0195mTZ."))
def test_nothing_but_invalid(text: str) -> None:
    try:
        point = parse_point(text)
    except Invalid:
        return
    assert parse_point(str(point)) == point
