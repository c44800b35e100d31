"""WHEN, as people write it: an instant, an LSN, a bookmark, `latest` or `oldest`. Parsing only; no volume is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from cdp.errors import Invalid

NS = 10**9
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_UNIX = re.compile(r"@(\d{1,11})(?:\.(\d{1,9}))?", re.ASCII)
_AGO = re.compile(r"-(\d{1,11})([smhd])", re.ASCII)
_LSN = re.compile(r"lsn:(\d{1,20})", re.ASCII)
_BOOKMARK = re.compile(r"bookmark:([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


@dataclass(frozen=True, slots=True)
class Time:
    """An instant: `stamp` in ns since 1970-01-01 UTC."""

    stamp: int


@dataclass(frozen=True, slots=True)
class Number:
    """An LSN."""

    lsn: int


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A bookmark's name."""

    name: str


@dataclass(frozen=True, slots=True)
class Edge:
    """The newest or the oldest instant that there is."""

    newest: bool


When = Time | Number | Bookmark | Edge


def parse_when(text: str, now: int) -> When:
    """What `text` means at `now`, a stamp. Raises Invalid."""
    if text in ("latest", "oldest"):
        return Edge(text == "latest")
    if match := _LSN.fullmatch(text):
        return Number(int(match[1]))
    if match := _BOOKMARK.fullmatch(text):
        return Bookmark(match[1])
    if match := _AGO.fullmatch(text):
        return Time(max(0, now - int(match[1]) * _UNITS[match[2]] * NS))
    if match := _UNIX.fullmatch(text):
        return Time(int(match[1]) * NS + _nanos(match[2]))
    if match := _RFC3339.fullmatch(text):
        return Time(_calendar(text, match))
    raise Invalid(
        f"{text!r} is no instant: say RFC 3339 (2026-01-31T12:00:00.5Z), -90s, -5m, -2h, @SECONDS, lsn:N, "
        "bookmark:NAME, latest or oldest"
    )


def show_stamp(stamp: int) -> str:
    """A stamp in RFC 3339, UTC, with nine decimals."""
    seconds, nanos = divmod(stamp, NS)
    try:
        whole = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}.{nanos:09}"
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{nanos:09}Z"


def _calendar(text: str, match: re.Match[str]) -> int:
    zone = UTC
    if match[8] and match[8] not in "Zz":
        hours, minutes = int(match[8][1:3]), int(match[8][4:6])
        if hours > 23 or minutes > 59:
            raise Invalid(f"{text!r}: no such time zone")
        shift = timedelta(hours=hours, minutes=minutes)
        zone = timezone(shift if match[8][0] == "+" else -shift)
    try:
        whole = datetime(*(int(match[n]) for n in range(1, 7)), tzinfo=zone)  # type: ignore[arg-type,misc]
    except ValueError as error:
        raise Invalid(f"{text!r}: {error}") from None
    seconds = (whole - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    if seconds < 0:
        raise Invalid(f"{text!r} is before 1970")
    return seconds * NS + _nanos(match[7])


def _nanos(decimals: str | None) -> int:
    return int((decimals or "").ljust(9, "0"))
