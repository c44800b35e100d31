"""The policy of a volume: what it keeps, in what space, and what gives way when both cannot hold.

    {"type": "policy", "every_write": "1d", "minutes": "2d", "hours": "2w", "days": "1y", "minimum": "1h",
     "budget": 21474836480, "full": "drop-oldest", "thin": false}

is its control record; the newest counts, and DEFAULT where there is none.

Invariants:
- Pure. A record that cannot be understood is left aside, never an error: a later version may have written it.
- A policy that exists is one that can hold: `check` is passed by every one that `changed` and `decode` return.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from cdp.errors import Invalid
from cdp.retention import spans
from cdp.retention.spans import Span

Full = Literal["drop-oldest", "stall", "fail"]
FULL: tuple[str, ...] = get_args(Full)

BUDGET_MAX = 1 << 62
SEGMENT_MIN, SEGMENT_MAX = 4 << 20, 64 << 20
"""Bytes of a segment under a small and a large budget."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Spans are seconds, None for ever; they count back from the newest record. `budget` in bytes of disk, None: as much as there is."""

    every_write: Span = 24 * 3600
    """How long every write stays an instant that can be reached."""
    minutes: Span = 2 * 86400
    """How long one instant a minute is kept: the last flush point in it, else the last write."""
    hours: Span = 14 * 86400
    days: Span = 365 * 86400
    minimum: int = 3600
    """History that reaches back this far is not given up for space, but where nothing else is left to give."""
    budget: int | None = None
    full: Full = "drop-oldest"
    """What gives way when the space does not suffice: history, the writer's time, or the write."""
    thin: bool = False
    """Whether the budget may be smaller than what the live disk could come to need."""

    @property
    def promised(self) -> Span:
        """How far back history reaches while there is space."""
        return spans.longest(self.every_write, self.minutes, self.hours, self.days)


DEFAULT = Policy()


def changed(policy: Policy, settings: Mapping[str, str]) -> Policy:
    """The policy with some settings changed, each given as text under its name. Invalid for what cannot be."""
    return check(replace(policy, **{name: _setting(name, text) for name, text in settings.items()}))


def settings(policy: Policy) -> dict[str, str]:
    """All settings as text: `changed(any policy, settings(policy)) == policy`."""
    return {
        "every_write": spans.text(policy.every_write),
        "minutes": spans.text(policy.minutes),
        "hours": spans.text(policy.hours),
        "days": spans.text(policy.days),
        "minimum": spans.text(policy.minimum),
        "budget": "none" if policy.budget is None else str(policy.budget),
        "full": policy.full,
        "thin": "yes" if policy.thin else "no",
    }


def check(policy: Policy) -> Policy:
    """The policy, or Invalid if it cannot hold."""
    if not spans.at_most(policy.minimum, policy.promised):
        raise Invalid(
            f"a minimum of {spans.text(policy.minimum)} cannot be kept: the policy keeps history for {spans.text(policy.promised)}"
        )
    return policy


def check_budget(policy: Policy, size: int) -> None:
    """Invalid if a live disk of `size` bytes could outgrow the budget, unless the policy is thin."""
    if policy.budget is None or policy.thin:
        return
    least = least_budget(size)
    if policy.budget < least:
        raise Invalid(
            f"the live disk alone may come to need a budget of {least} bytes, more than {policy.budget}: give it that, or --thin to promise that it will stay smaller"
        )


def least_budget(size: int) -> int:
    """The smallest budget that a full disk of `size` incompressible bytes leaves room in.

    1/16 for headers, index and checkpoints of writes of 4 KiB; and an eighth of what lies outside the reserve has to be dead or history, or
    compaction would copy the live disk over and over.
    """
    hard = -(-(size + size // 16) * 8 // 7)
    # The reserve is three segments, and 192 segments fill a budget: of 4 MiB at least, of 64 MiB at most (native/engine/src/space.rs).
    by_budget = -(-hard * 64 // 63)
    return hard + min(max(by_budget - hard, 3 * SEGMENT_MIN), 3 * SEGMENT_MAX)


def encode(policy: Policy) -> bytes:
    """The control record."""
    record: dict[str, Any] = {"type": "policy", **settings(policy), "budget": policy.budget, "thin": policy.thin}
    return json.dumps(record, separators=(",", ":")).encode()


def decode(data: bytes) -> Policy | None:
    """The policy in a control record; None if it is none. Settings that it does not have are the default's."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("type") != "policy":
        return None
    texts = {name: _as_text(record[name]) for name in settings(DEFAULT) if name in record}
    try:
        return changed(DEFAULT, texts)
    except Invalid:
        return None


def newest(controls: Iterable[tuple[int, int, bytes]]) -> tuple[Policy, int | None]:
    """The policy that counts, of (LSN, stamp, JSON) in the order of LSNs, and the stamp of its record: None for the default."""
    found: tuple[Policy, int | None] = (DEFAULT, None)
    for _, stamp, data in controls:
        # Most control records are bookmarks and events: looked at, not parsed.
        if b'"policy"' in data and (policy := decode(data)) is not None:
            found = (policy, stamp)
    return found


def _as_text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _setting(name: str, text: str) -> Any:
    match name:
        case "every_write" | "minutes" | "hours" | "days":
            return spans.parse(text)
        case "minimum":
            return _minimum(text)
        case "budget":
            return _budget(text)
        case "full" if text in FULL:
            return cast("Full", text)
        case "full":
            raise Invalid(f"{text[:100]!r} is no way out of a full journal: drop-oldest, stall or fail")
        case "thin" if text in ("yes", "no"):
            return text == "yes"
        case _:
            raise Invalid(f"there is no setting {name[:100]!r} with the value {text[:100]!r}")


def _minimum(text: str) -> int:
    span = spans.parse(text)
    if span is None:
        raise Invalid("a minimum cannot be forever: --full stall keeps all history, and lets writes wait instead")
    return span


def _budget(text: str) -> int | None:
    if text == "none":
        return None
    if not re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) or not 0 < int(text) <= BUDGET_MAX:
        raise Invalid(f"{text[:100]!r} is no budget: a number of bytes, or none")
    return int(text)
