"""The plan: from policy, history and space to what shall stay reachable.

Invariants:
- The horizon never goes back, and a point is an existing point or was above the horizon: nothing that was given up comes back.
- While space suffices, every record of the every-write window is kept, and every bucket of a tier that had a record has its instant.
- Planning on what a plan made changes nothing, while neither time nor space moves.
- What is given up for space, and each bookmark that goes, is an event of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdp.retention import tiers
from cdp.retention.policy import Policy
from cdp.retention.relief import Relief, relieve, shortage
from cdp.retention.spans import Span
from cdp.retention.state import MINUTE, SECOND, Facts, Mark, Point

STEPS_MAX = 600 * SECOND
STEPS_A_WINDOW = 256
"""The horizon moves in this many steps a window, of at most ten minutes: each is a commit of the manifest."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something for the timeline (docs/operations.md, "Events")."""

    event: str
    details: Mapping[str, str | int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be kept, and what must be said. `points` ascending, all below `horizon`."""

    horizon: int
    points: tuple[int, ...]
    given_up: tuple[Event, ...] = ()
    drop_marks: tuple[str, ...] = ()
    close_views: tuple[int, ...] = ()
    cut_stamp: int | None = None
    """Up to where this plan gives history up for space."""

    gives_way: bool = False
    """Whether it takes a step for space: what that gave is known when it was measured."""

    expected: int = 0
    """Bytes that the step gives, at most."""

    def changes(self, facts: Facts) -> bool:
        """Whether there is anything to do."""
        pinned = {pin.lsn for pin in facts.pins}
        before = {point.lsn for point in facts.points}
        same = self.horizon == facts.horizon.lsn and before - pinned == set(self.points) - pinned
        return not same or bool(self.given_up or self.drop_marks or self.close_views)


def plan(policy: Policy, facts: Facts, now: int) -> Plan:
    """What a policy makes of a volume at the stamp `now`.

    Ages count back from the newest record, or from `now` if that is earlier: a volume that nobody writes to loses nothing.
    """
    age_zero = min(now, facts.latest.stamp)
    expired, marks = _split(facts.marks, now)
    step = relieve(policy, facts, marks, age_zero)
    if step.drop is not None:
        marks = tuple(mark for mark in marks if mark != step.drop)
    horizon = _horizon(policy, facts, step, age_zero)
    events = [*(_expired(mark) for mark in expired), *_told(policy, facts, step, age_zero)]
    return Plan(
        horizon=horizon.lsn,
        points=_points(policy, facts, marks, step, horizon, age_zero),
        given_up=tuple(events),
        drop_marks=tuple(mark.name for mark in (*expired, *((step.drop,) if step.drop else ()))),
        close_views=() if step.close_view is None else (step.close_view,),
        cut_stamp=_cut(facts, step, horizon),
        gives_way=step.gives and (step.close_view is None or step.close_view < facts.horizon.lsn),
        expected=step.expected,
    )


def due(policy: Policy, now: int) -> tuple[int | None, int]:
    """What has to change with the time `now`, in stamps, before another plan can come to another end, while space suffices."""
    return _since(policy.every_write, now), now // MINUTE


def _split(marks: tuple[Mark, ...], now: int) -> tuple[tuple[Mark, ...], tuple[Mark, ...]]:
    expired = tuple(mark for mark in marks if mark.expires_stamp is not None and mark.expires_stamp <= now)
    return expired, tuple(mark for mark in marks if mark not in expired)


def _horizon(policy: Policy, facts: Facts, step: Relief, now: int) -> Point:
    found = facts.horizon
    since = _since(policy.every_write, now)
    if since is not None and (aged := facts.history.last(since)) is not None and aged.lsn > found.lsn:
        found = aged
    if (least := max(step.floor, step.passes)) > found.lsn and (forced := facts.history.point(least)) is not None:
        found = forced
    return found


def _since(span: Span, now: int) -> int | None:
    """Where the every-write window begins, in whole steps of Unix time; None: it has no beginning."""
    if span is None:
        return None
    width = min(STEPS_MAX, max(SECOND, span * SECOND // STEPS_A_WINDOW))
    return (now - span * SECOND) // width * width


def _points(
    policy: Policy, facts: Facts, marks: tuple[Mark, ...], step: Relief, horizon: Point, now: int
) -> tuple[int, ...]:
    ladder = tiers.tiers(policy, now)
    since = max(facts.horizon.lsn, step.floor)
    candidates = [point for point in facts.points if point.lsn >= step.floor]
    candidates += tiers.passed(ladder, facts.history, since, horizon.lsn)
    kept = tiers.choose(ladder, candidates)
    reachable = {point.lsn for point in facts.points}
    kept |= {mark.lsn for mark in marks if mark.lsn >= facts.horizon.lsn or mark.lsn in reachable}
    return tuple(sorted(lsn for lsn in kept if lsn < horizon.lsn))


def _expired(mark: Mark) -> Event:
    return Event("bookmark-expired", {"name": mark.name, "lsn": mark.lsn, "stamp": mark.stamp})


def _told(policy: Policy, facts: Facts, step: Relief, now: int) -> list[Event]:
    """Conditions are told when they begin and when they end; what happens once is told each time."""
    space = facts.space
    why: dict[str, str | int | None] = {"used": space.used, "soft": space.soft, "hard": space.hard}
    found = []
    if step.floor and not facts.shortened:
        found.append(Event("history-shortened", {"reason": "disk" if space.disk_full else "budget", **why}))
    if step.close_view is not None:
        found.append(Event("view-closed", {"lsn": step.close_view, **why}))
    if step.breaks_minimum and not facts.minimum_broken:
        found.append(Event("minimum-broken", {"minimum_seconds": policy.minimum, **why}))
    if step.drop is not None:
        lost = step.drop
        found.append(Event("bookmark-given-up", {"name": lost.name, "lsn": lost.lsn, "stamp": lost.stamp, **why}))
    return found if step.gives else found + _ended(policy, facts, now)


def _ended(policy: Policy, facts: Facts, now: int) -> list[Event]:
    found: list[Event] = []
    if shortage(facts.space) > 0:
        return found
    if facts.minimum_broken and facts.cut_stamp <= now - policy.minimum * SECOND:
        found.append(Event("minimum-holds", {"minimum_seconds": policy.minimum}))
    promised = policy.promised
    if facts.shortened and promised is not None and facts.cut_stamp <= now - promised * SECOND:
        found.append(Event("history-whole", {"promised_seconds": promised}))
    return found


def _cut(facts: Facts, step: Relief, horizon: Point) -> int | None:
    if not step.floor:
        return None
    cut = [point.stamp for point in (*facts.points, horizon) if point.lsn <= step.floor]
    return max(cut, default=None)
