"""Where a group of volumes has no common instant (docs/decisions/0012-groups.md).

One clock stamps all volumes of a daemon, each write later than every write that was answered before it came: a stamp is one consistent instant
of all, except where

- a run of the daemon did not end cleanly: the volume may lack anything that was stamped after its last kept record, until it was opened again;
- the clock went back by more than a second: a time that was passed twice names two states;
- a rollback of the group was under way.

Invariants:
- Pure: what the journals and the group's notes say in, gaps out.
- A gap is never shorter than what may be missing; what is not known makes it longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cdp.facts import EventFacts
from cdp.group_files import Gap, Group, Pending, with_gaps
from cdp.when import SECOND

CLOCK_STEP_MAX = SECOND
"""A clock that went back further begins a clock epoch (native/engine/src/options.rs)."""
CRASH = "crash"
CLOCK = "clock"
ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Member:
    """What a volume's journal tells. `stamp_of`: the stamp of a record, None if that is not known any more.

    `dirty`: it was not stopped cleanly, and nobody has recovered it yet. `safe`: the note up to when nothing of it can be lost.
    """

    id: str
    events: Sequence[EventFacts]
    stamp_of: Callable[[int], int | None]
    latest: int
    dirty: bool = False
    safe: int | None = None


def learned(group: Group, members: Iterable[Member]) -> Group:
    """The group with the gaps of the events that it has not seen."""
    gaps, seen = list(group.gaps), dict(group.seen)
    for member in members:
        known = seen.get(member.id, -1)
        fresh = [event for event in member.events if event.lsn > known]
        gaps += [gap for event in fresh if (gap := gap_of(member, event)) is not None]
        if fresh:
            seen[member.id] = fresh[-1].lsn
    return with_gaps(replace(group, seen=seen), tuple(gaps))


def gap_of(member: Member, event: EventFacts) -> Gap | None:
    """The gap that an event makes, if it makes one."""
    details = event.details
    if event.event == "recovery":
        since = _first_lost(member, details.get("last_lsn"), event.stamp)
        return Gap(since, event.stamp, CRASH, member.id) if since < event.stamp else None
    if event.event == "clock-step":
        first, last = details.get("to"), details.get("from")
        if isinstance(first, int) and isinstance(last, int) and first <= last:
            return Gap(first, last + 1, CLOCK, member.id)
    return None


def _first_lost(member: Member, last_lsn: object, recovered: int) -> int:
    kept = member.stamp_of(last_lsn) if isinstance(last_lsn, int) else None
    safe = member.safe
    if safe is not None and safe < recovered:
        # A note of a later run says nothing of this one, and would lie behind the recovery.
        kept = safe if kept is None else max(kept, safe)
    return 0 if kept is None else kept + 1


def set_back(members: Sequence[Member], now: int) -> Gap | None:
    """The gap of a clock that went back while no daemon ran: what is stamped from now on may lie before what there is."""
    newest = max(members, key=lambda member: member.latest)
    # Less is made up for: stamps go on behind the newest one.
    if newest.latest <= now + CLOCK_STEP_MAX:
        return None
    return Gap(now, newest.latest + 1, CLOCK, newest.id)


def open_gaps(pending: Pending | None, members: Iterable[Member]) -> list[tuple[int, str, str | None]]:
    """Gaps that have not ended: since when, kind, and volume."""
    found: list[tuple[int, str, str | None]] = []
    if pending is not None and pending.kind == ROLLBACK:
        found.append((pending.begun + 1, ROLLBACK, None))
    for member in members:
        if member.dirty:
            found.append((max(member.latest, member.safe or 0) + 1, CRASH, member.id))
    return found


def covering(gaps: Iterable[Gap], stamp: int) -> Gap | None:
    """A gap in which the stamp lies."""
    return next((gap for gap in gaps if gap.since <= stamp < gap.until), None)


def whole_from(gaps: Iterable[Gap], stamp: int) -> int:
    """The first stamp from `stamp` on that lies in no gap."""
    for gap in sorted(gaps, key=lambda gap: gap.since):
        if gap.since <= stamp < gap.until:
            stamp = gap.until
    return stamp


def whole_until(gaps: Iterable[Gap], stamp: int) -> int:
    """The last stamp up to `stamp` that lies in no gap; negative if there is none."""
    for gap in sorted(gaps, key=lambda gap: -gap.until):
        if gap.since <= stamp < gap.until:
            stamp = gap.since - 1
    return stamp
