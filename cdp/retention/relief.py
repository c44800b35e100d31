"""What is given up when the space does not suffice, under `drop-oldest`: one step at a time, in one order.

    1  what is older than the guaranteed minimum: points, oldest first, then the oldest of the every-write window
    2  open views and restores that hold anything back, or would     from here on only while writes wait:
       after the steps to come, oldest first
    3  points younger than the minimum
    4  the minimum itself: the every-write window, down to the newest record
    5  bookmarks that are not held, oldest first

Held bookmarks, clones and the live disk are no step: then the volume stalls. Before 2, when no data lies above the horizon, it passes what only tells of
something (events, bookmarks): nothing is lost by that, and a segment that ends with such a record can be compacted only when it lies below the horizon.

Invariants:
- A step is taken only if what compaction could free anyway is not enough. What the steps before it give counts in full until it was measured, and
  points, whose bytes nobody knows before, and everything from step 2 on wait for that.
- History goes before the room is needed: what is about to be written counts as written.
- Steps 2 to 5 are taken only while writes wait or fail, or nearly; steps 3 to 5 only when no closable pin is left below where they lead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cdp.retention.policy import Policy
from cdp.retention.state import MINUTE, SECOND, Facts, Mark, Point, Space

GARBAGE_SHARE = 0.7
"""Room left for what is dead but not compacted, for each byte below the horizon that is not: with less, compaction would write most
bytes again for each one that it frees."""

ANY_STAMP = (1 << 63) - 1

POINTS_STEP = 16
"""A step gives up this part of the points: what a single one holds is not known before it is gone."""

WINDOW_STEP = 64
"""A step into the every-write window gives up at least this part of the space, so that not every second has one."""


@dataclass(frozen=True, slots=True)
class Relief:
    """A step, or none. `floor`: what lies below that LSN is given up, bookmarks excepted. `passes`: the horizon may go there at no loss."""

    floor: int = 0
    expected: int = 0
    """Bytes that this gives, at most, as far as that is known before."""
    passes: int = 0
    close_view: int | None = None
    drop: Mark | None = None
    breaks_minimum: bool = False

    @property
    def gives(self) -> bool:
        return self != NOTHING


NOTHING = Relief()


def relieve(policy: Policy, facts: Facts, marks: tuple[Mark, ...], now: int) -> Relief:
    """The next step, at the stamp `now`. `marks`: the bookmarks that count."""
    need = shortage(facts.space)
    if policy.full != "drop-oldest" or need <= 0:
        return NOTHING
    guaranteed = facts.history.last(now - policy.minimum * SECOND)
    if guaranteed is not None and (step := _older(facts, marks, guaranteed, need)) is not None:
        return step
    return _escalate(facts, marks, need) if facts.space.measured and stuck(facts.space) else NOTHING


def _escalate(facts: Facts, marks: tuple[Mark, ...], need: int) -> Relief:
    newest = facts.history.last(facts.latest.stamp)
    step = None if newest is None else _older(facts, marks, newest, need)
    if newest is not None and newest.lsn > facts.horizon.lsn and not _written(facts, newest):
        return Relief(passes=newest.lsn)
    # All that the steps to come would meet, not only the next one: a view goes before the minimum does.
    reached = newest.lsn if newest is not None and step is not None else facts.horizon.lsn
    pinned = [pin.lsn for pin in facts.pins if pin.closable and pin.lsn < reached]
    if pinned:
        return Relief(close_view=min(pinned))
    if step is not None:
        return replace(step, breaks_minimum=True)
    kept = {point.lsn for point in facts.points}
    loose = [mark for mark in marks if not mark.held and mark.lsn in kept]
    return Relief(drop=min(loose, key=lambda mark: (mark.lsn, mark.name))) if loose else NOTHING


def shortage(space: Space) -> int:
    """The bytes by which what must be kept, and room to compact it in, exceed where slow-down begins; 0 or less: none."""
    if space.soft is None:
        return 0
    needed = max(0, space.used - space.dead - space.expected)
    below = max(0, needed - space.window)
    return needed + int(below * GARBAGE_SHARE) + space.ahead - space.soft


def stuck(space: Space) -> bool:
    """Whether writes wait, or nearly, and compaction alone cannot change that."""
    if not space.tight or space.hard is None:
        return False
    # A write that waits may be one that needs half of the room between the marks.
    return space.used - space.dead >= space.hard - (space.hard - (space.soft or 0)) * 5 // 8


def _older(facts: Facts, marks: tuple[Mark, ...], limit: Point, need: int) -> Relief | None:
    """A step among what is older than `limit`; None if nothing is left there."""
    kept_anyway = {mark.lsn for mark in marks} | {pin.lsn for pin in facts.pins}
    points = [point.lsn for point in facts.points if point.lsn < limit.lsn and point.lsn not in kept_anyway]
    if points:
        return Relief(points[max(1, len(points) // POINTS_STEP) - 1] + 1) if facts.space.measured else NOTHING
    return _after_bytes(facts, limit, max(need, (facts.space.soft or 0) // WINDOW_STEP))


def _written(facts: Facts, limit: Point) -> bool:
    """Whether the records above the horizon, `limit` the last, wrote anything."""
    return any(here for _, here in facts.history.minutes(facts.horizon.lsn + 1, limit.lsn + 1))


def _after_bytes(facts: Facts, limit: Point, need: int) -> Relief | None:
    """To where the records above the horizon wrote `need` bytes, `limit` at most; None if they wrote nothing."""
    written = 0
    for minute, here in facts.history.minutes(facts.horizon.lsn + 1, limit.lsn + 1):
        if written + here >= need:
            return Relief(_within(facts, limit, minute, (need - written) / max(1, here)), need)
        written += here
    # What only told of something is no history to give up: it would be told of, again and again.
    return Relief(limit.lsn, written) if written else None


def _within(facts: Facts, limit: Point, minute: int, share: float) -> int:
    """The LSN at which that share of what a minute wrote was written, as if all its records had been of one size."""
    history, horizon = facts.history, facts.horizon.lsn
    before = history.last(minute * MINUTE - 1, limit.lsn)
    last = history.last((minute + 1) * MINUTE - 1, limit.lsn + 1)
    begin = horizon if before is None else max(horizon, before.lsn)
    end = limit.lsn if last is None else max(begin, last.lsn)
    found = history.last(ANY_STAMP, begin + max(1, int((end - begin) * share)) + 1)
    return found.lsn if found is not None and found.lsn > horizon else limit.lsn
