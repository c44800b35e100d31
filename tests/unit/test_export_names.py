"""Export names: NAME, NAME@WHEN, and the scratch views that are recognised before they exist."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp.errors import Invalid
from cdp.exports import ExportName, describe, described_volume, parse_export
from cdp.when import SECOND, Ago, At, AtBookmark, AtLsn, Latest


@pytest.mark.parametrize(
    ("name", "export"),
    [
        ("disk", ExportName("disk")),
        ("disk@latest", ExportName("disk", Latest())),
        ("disk@lsn:5", ExportName("disk", AtLsn(5))),
        ("disk@@5", ExportName("disk", At(5 * SECOND))),
        ("disk@-5m", ExportName("disk", Ago(300 * SECOND))),
        ("disk@bookmark:b", ExportName("disk", AtBookmark("b"))),
        ("disk@1970-01-01T02:00:00+02:00", ExportName("disk", At(0))),
        ("disk@1970-01-01T02:00:00+02:00+scratch", ExportName("disk", At(0), "")),
        ("disk@latest+scratch", ExportName("disk", Latest(), "")),
        ("disk@lsn:5+scratch=job-1", ExportName("disk", AtLsn(5), "job-1")),
    ],
)
def test_reads(name: str, export: ExportName) -> None:
    assert parse_export(name) == export


@pytest.mark.parametrize(
    "name",
    [
        "@latest",
        "disk@",
        "disk@now",
        "disk+scratch",
        "dis k",
        "disk@latest+scratch=",
        "disk@latest+scratch=a/b",
        "disk@latest+scratchy",
        "disk@latest+scratch=a+scratch=b@",
        "disk@bookmark:a@b",
        "\0",
        "disk@latest\n",
    ],
)
def test_refuses(name: str) -> None:
    with pytest.raises(Invalid):
        parse_export(name)


@given(st.text() | st.text("disk@+scrath=:-lsn0195mTZ."))
def test_nothing_but_invalid(name: str) -> None:
    try:
        parse_export(name)
    except Invalid:
        return


def test_a_description_leads_back_to_its_volume() -> None:
    volume_id = "0123456789abcdef" * 2
    assert described_volume(describe(volume_id)) == volume_id
    assert described_volume(describe(volume_id, " at lsn:5, 1970-01-01T00:00:00.000000000Z")) == volume_id
    assert described_volume("somebody's disk") is None
    assert described_volume(f"cdp volume {volume_id}0") is None
