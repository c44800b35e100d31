"""Lengths of time as people write them: `90s`, `15m`, `24h`, `2d`, `2w`, `1y`, `1d12h`, `0`, `forever`.

Invariants:
- A span is whole seconds, or None: for ever. A month is none, for it has no length; a year is 365 days.
- `parse(text(span)) == span`.
"""

from __future__ import annotations

import re

from cdp.errors import Invalid

Span = int | None

SPAN_MAX = 1000 * 365 * 86400
"""Seconds; longer ones are `forever` or a slip of the pen."""

_UNITS = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"([0-9]{1,12})([ywdhms])", re.ASCII)
_TEXT_MAX = 100


def is_span(text: str) -> bool:
    """Whether a text looks like a length of time, and like no time of a calendar."""
    return re.fullmatch(r"([0-9]+[a-z])+", text, re.ASCII) is not None


def parse(text: str) -> Span:
    """The span that a text names; Invalid if it names none."""
    if text == "forever":
        return None
    if text == "0":
        return 0
    seconds, end = 0, 0
    while len(text) <= _TEXT_MAX and (part := _PART.match(text, end)):
        seconds, end = seconds + int(part[1]) * _UNITS[part[2]], part.end()
    if not text or end != len(text):
        raise Invalid(
            f"{text[:_TEXT_MAX]!r} is no length of time: give one as 90s, 15m (minutes), 24h, 2d, 2w, 1y or 1d12h, 0 or forever"
        )
    if seconds > SPAN_MAX:
        raise Invalid(f"{text!r} is longer than a thousand years: say forever")
    return seconds


def text(span: Span) -> str:
    """A span in its largest unit that divides it: 24h stays 1d."""
    if span is None:
        return "forever"
    for unit, seconds in _UNITS.items():
        if span and span % seconds == 0:
            return f"{span // seconds}{unit}"
    return "0"


def longest(*spans: Span) -> Span:
    """The longest of them."""
    known = [span for span in spans if span is not None]
    return max(known) if len(known) == len(spans) else None


def at_most(span: Span, bound: Span) -> bool:
    """Whether `span` is no longer than `bound`."""
    return bound is None or (span is not None and span <= bound)
