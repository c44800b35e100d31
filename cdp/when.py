"""WHEN: how people and programs name an instant of a volume (docs/glossary.md, "WHEN").

    2026-11-22T10:48:20.123456789Z   RFC 3339, up to nine decimals, UTC unless it says otherwise
    -90s  -5m  -2h  -3d              ago
    @1795344500  @1795344500.5       Unix time, up to nine decimals
    lsn:N  bookmark:NAME  latest  oldest

Invariants:
- `parse` is pure and raises nothing but Invalid, whatever the text; `parse(str(when)) == when` for every value.
- Times are integers, nanoseconds since 1970 (stamps), from end to end: no float ever holds one.
- `resolve` answers with an instant that the volume has, or refuses with the range that can be reached.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from cdp.description import STAMP_MAX
from cdp.errors import Invalid, NotFound
from cdp.names import check_name

SECOND = 1_000_000_000
_UNITS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_LSN_MAX = (1 << 64) - 1
_TEXT_MAX = 200
"""Characters; the longest WHEN, a bookmark's name, has 137. Python's own limit on the digits of an int lies far above."""

_AGO = re.compile(r"-([0-9]+)([smhd])", re.ASCII)
_UNIX = re.compile(r"@([0-9]+)(?:\.([0-9]{1,9}))?", re.ASCII)
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest record."""

    def __str__(self) -> str:
        return "latest"


@dataclass(frozen=True, slots=True)
class Oldest:
    """The oldest instant that can still be reached."""

    def __str__(self) -> str:
        return "oldest"


@dataclass(frozen=True, slots=True)
class At:
    """The state at a time: every record with a stamp at or before it."""

    stamp: int

    def __str__(self) -> str:
        return rfc3339(self.stamp)


@dataclass(frozen=True, slots=True)
class Ago:
    """The state that long before now, in nanoseconds: whole seconds."""

    duration: int

    def __str__(self) -> str:
        for unit in "dhm":
            if self.duration and self.duration % _UNITS[unit] == 0:
                return f"-{self.duration // _UNITS[unit]}{unit}"
        return f"-{self.duration // SECOND}s"


@dataclass(frozen=True, slots=True)
class AtLsn:
    """The state after the record of that number."""

    lsn: int

    def __str__(self) -> str:
        return f"lsn:{self.lsn}"


@dataclass(frozen=True, slots=True)
class AtBookmark:
    """The state that a bookmark names."""

    name: str

    def __str__(self) -> str:
        return f"bookmark:{self.name}"


When = Latest | Oldest | At | Ago | AtLsn | AtBookmark


def relative(when: When) -> bool:
    """Whether it means another instant a moment later."""
    return isinstance(when, Latest | Oldest | Ago)


def parse(text: str) -> When:  # noqa: PLR0911 (one return a form)
    """The WHEN that `text` is; Invalid if it is none."""
    if len(text) > _TEXT_MAX:
        raise Invalid(f"no WHEN has {len(text)} characters")
    if text == "latest":
        return Latest()
    if text == "oldest":
        return Oldest()
    if text.startswith("lsn:"):
        return AtLsn(_lsn(text))
    if text.startswith("bookmark:"):
        return AtBookmark(check_name(text.removeprefix("bookmark:"), "bookmark"))
    if ago := _AGO.fullmatch(text):
        duration = int(ago[1]) * _UNITS[ago[2]]
        if duration > STAMP_MAX:
            raise Invalid(f"{text!r} lies before 1970")
        return Ago(duration)
    if unix := _UNIX.fullmatch(text):
        return At(_in_range(int(unix[1]) * SECOND + _decimals(unix[2]), text))
    if time := _RFC3339.fullmatch(text):
        return At(_stamp(time, text))
    raise Invalid(
        f"{text!r} names no instant: give a time as 2026-11-22T10:48:20.5Z, -90s, -5m, -2h, -3d or @SECONDS, or lsn:N, bookmark:NAME, latest or oldest"
    )


def rfc3339(stamp: int) -> str:
    """A stamp as RFC 3339 in UTC, with its nine decimals."""
    seconds, nanoseconds = divmod(stamp, SECOND)
    days, second = divmod(seconds, 86400)
    day = date.fromordinal(_EPOCH_DAY + days)
    return f"{day.isoformat()}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{nanoseconds:09}Z"


def _lsn(text: str) -> int:
    digits = text.removeprefix("lsn:")
    if not re.fullmatch(r"[0-9]+", digits, re.ASCII) or int(digits) > _LSN_MAX:
        raise Invalid(f"{text!r} names no instant: an LSN is a number from 0 to 2^64 - 1")
    return int(digits)


def _decimals(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def _in_range(stamp: int, text: str) -> int:
    if not 0 <= stamp <= STAMP_MAX:
        raise Invalid(f"{text!r} cannot be a time of a volume: those lie from 1970 to {rfc3339(STAMP_MAX)}")
    return stamp


def _stamp(time: re.Match[str], text: str) -> int:
    hour, minute, second = int(time[4]), int(time[5]), int(time[6])
    try:
        day = date(int(time[1]), int(time[2]), int(time[3])).toordinal() - _EPOCH_DAY
    except ValueError as error:
        raise Invalid(f"{text!r} is no date of the calendar") from error
    # Unix time has no leap seconds: a 60th second would be a guess at which of two instants is meant.
    if hour > 23 or minute > 59 or second > 59:
        raise Invalid(f"{text!r} is no time of a day: hours go to 23, minutes and seconds to 59")
    seconds = day * 86400 + hour * 3600 + minute * 60 + second - _offset(time, text)
    return _in_range(seconds * SECOND + _decimals(time[7]), text)


def _offset(time: re.Match[str], text: str) -> int:
    if time[9] is None:
        return 0
    hours, minutes = int(time[10]), int(time[11])
    if hours > 23 or minutes > 59:
        raise Invalid(f"{text!r} has no offset from UTC that can be: at most 23:59")
    offset = hours * 3600 + minutes * 60
    return -offset if time[9] == "-" else offset


class Moment(Protocol):
    """What `_native.Instant` has."""

    @property
    def lsn(self) -> int: ...
    @property
    def stamp(self) -> int: ...
    @property
    def clock_epoch(self) -> int: ...
    @property
    def other(self) -> int | None: ...


class History(Protocol):
    """What `resolve` asks of a volume; `_native.Volume` has it."""

    def latest(self) -> Moment: ...
    def oldest(self) -> Moment: ...
    def instant_of_lsn(self, lsn: int) -> Moment: ...
    def instant_at(self, stamp: int) -> Moment: ...
    def reach(self) -> Mapping[str, Any]:
        """horizon (LSN), horizon_stamp, points: (LSN, stamp, …) below it, ascending."""


def resolve(history: History, bookmarks: dict[str, int], when: When, now: int) -> Moment:
    """The instant that `when` names at the time `now` (a stamp). `bookmarks`: the LSN of each name.

    NotFound, with the range that can be reached, for what the volume does not have: the future, what is older than its oldest
    instant, an LSN that no record has, an unknown bookmark.
    """
    match when:
        case Latest():
            return history.latest()
        case Oldest():
            return history.oldest()
        case AtLsn(lsn):
            return _of_lsn(history, lsn, str(when))
        case AtBookmark(name):
            if name not in bookmarks:
                raise NotFound(f"there is no bookmark {name!r}{_known(bookmarks)}; {reach(history)}")
            return _of_lsn(history, bookmarks[name], str(when))
        case Ago(duration):
            return _at(history, now - duration, now, str(when))
        case At(stamp):
            return _at(history, stamp, now, str(when))


def reach(history: History) -> str:
    """What can be reached, as the end of a sentence."""
    oldest, latest, kept = history.oldest(), history.latest(), history.reach()
    ends = f"what can be reached lies from {_named(oldest.lsn, oldest.stamp)} to {_named(latest.lsn, latest.stamp)}"
    points = len(kept["points"])
    if not points:
        return ends
    below = "one instant" if points == 1 else f"{points} instants"
    return f"{ends}: every write from {_named(kept['horizon'], kept['horizon_stamp'])} on, and {below} before that"


def below_horizon(history: History, found: Moment, wanted: When) -> bool:
    """Whether `found` stands for a time below the horizon, whose own instant may be gone."""
    return isinstance(wanted, At | Ago) and found.lsn < int(history.reach()["horizon"])


def _of_lsn(history: History, lsn: int, text: str) -> Moment:
    try:
        return history.instant_of_lsn(lsn)
    except NotFound as error:
        raise NotFound(f"{text} is no recovery point{_neighbours(history, lsn)}; {reach(history)}") from error


def _neighbours(history: History, lsn: int) -> str:
    """What can be had instead of an instant that was given up."""
    kept = history.reach()
    instants = [*((number, stamp) for number, stamp, *_ in kept["points"]), (kept["horizon"], kept["horizon_stamp"])]
    place = bisect_left(instants, (lsn, 0))
    if place == len(instants):
        return ""
    near = [_named(*instant) for instant in instants[max(0, place - 1) : place + 1]]
    return f" any more: the nearest {'one is' if len(near) == 1 else 'ones are'} {' and '.join(near)}"


def _named(lsn: int, stamp: int) -> str:
    return f"lsn:{lsn} ({rfc3339(stamp)})"


def _at(history: History, stamp: int, now: int, text: str) -> Moment:
    if stamp > now:
        raise NotFound(f"{text} lies in the future: it is {rfc3339(now)} now; {reach(history)}")
    if stamp < 0:
        raise NotFound(f"{text} lies before 1970; {reach(history)}")
    try:
        return history.instant_at(stamp)
    except NotFound as error:
        raise NotFound(f"{text} is before the oldest instant; {reach(history)}") from error


def _known(bookmarks: dict[str, int]) -> str:
    if not bookmarks:
        return " (there are none)"
    names = sorted(bookmarks, key=lambda name: bookmarks[name])[-8:]
    return (
        f" (the newest are {', '.join(names)})" if len(bookmarks) > len(names) else f" (there are {', '.join(names)})"
    )
