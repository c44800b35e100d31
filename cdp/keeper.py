"""A volume that is open for writing, kept to its policy: facts are gathered, a plan is made, what it says is done and told.

Invariants:
- No bookmark is set or taken away while a plan is made and carried out, so that none ends up on an instant that just went.
- A bookmark's removal is durable before its instant goes; every other event is told after what it tells of, and told again until it is durable.
- A round without anything due costs a few calls that touch no disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cdp import history, marks
from cdp.errors import NoSpace
from cdp.retention.plan import Event, Plan, due, plan
from cdp.retention.policy import Policy
from cdp.retention.relief import shortage
from cdp.retention.state import Facts, Mark, Space

if TYPE_CHECKING:
    from cdp.volume import OpenVolume

MEASURE_SECONDS = 10.0
"""How long to wait for compaction's next look after something was given up, at most. Under pressure it looks at once."""

AHEAD_SECONDS_MAX = 1.0
"""Between two rounds, as far as what is written meanwhile is foreseen."""
FAST_SHARE = 64
"""Who writes this part of the room in a second is looked after more often."""

EVENTS_WAITING_MAX = 64
"""Events that could not be appended yet; older ones are let go."""


@dataclass(frozen=True, slots=True)
class Given:
    """A step: the horizon and the number of points after it, the bytes that it gives at most, and when it was taken."""

    horizon: int
    points: int
    expected: int
    since: float

    def is_known(self, looked: int, points: int) -> bool:
        """Whether compaction has looked since, or will not. Of points only the number is told: a step takes some, and only time adds any."""
        seen = (looked, -points) >= (self.horizon, -self.points)
        return seen or time.monotonic() - self.since >= MEASURE_SECONDS


class Growth:
    """What clients write, in bytes: until now, and by then until the next round."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self.ahead = 0
        self.fast = False

    def grown_to(self, written: int, room: int | None, now: float) -> None:
        """`written`: so far; `room`: bytes before slow-down, None without a bound; `now`: seconds of a clock that is not set."""
        before, since = self._last or (written, now)
        self._last = (written, now)
        elapsed = max(now - since, 1e-3)
        rate = (written - before) / elapsed
        self.ahead = int(rate * min(elapsed, AHEAD_SECONDS_MAX))
        self.fast = room is not None and rate > room / FAST_SHARE


class Keeper:
    """Of one `OpenVolume`, which calls it with its bookmarks locked."""

    def __init__(self, volume: OpenVolume) -> None:
        controls = volume.native.controls()
        self._volume = volume
        self._shortened = marks.condition(controls, "history-shortened", "history-whole")
        self._minimum_broken = marks.condition(controls, "minimum-broken", "minimum-holds")
        self._cut_stamp: int | None = None
        self._flushed: dict[int, bool] = {}
        self._planned: object = None
        self._given: list[Given] = []
        self._growth = Growth()
        self._waiting: list[Event] = []
        self._stuck = False

    @property
    def waits(self) -> bool:
        """A step was taken and not measured yet, or much is written: the next round should come soon."""
        return bool(self._given) or self._growth.fast

    @property
    def shortened(self) -> bool:
        """History was given up for space, and does not reach back as promised again."""
        return self._shortened

    @property
    def minimum_broken(self) -> bool:
        return self._minimum_broken

    def round(self, policy: Policy, now: int, *, force: bool = False) -> Plan | None:
        """Does what is due at the stamp `now`. What that was; None: nothing."""
        native = self._volume.native
        told = native.space()
        self._tell()
        # Without the bytes of the window the shortage is overestimated: enough to see that there is none.
        space = self._space(told)
        pressed = shortage(space) > 0
        bookmarks = history.marks_of(self._volume.bookmarks())
        age_zero = min(now, native.latest().stamp)
        expired = sum(mark.expires_stamp is not None and mark.expires_stamp <= now for mark in bookmarks)
        state = (policy, due(policy, age_zero), expired, bookmarks)
        if state == self._planned and not pressed and not force:
            return None
        seen = history.NativeHistory(native)
        if pressed:
            space = replace(space, window=seen.window_bytes())
        facts = self._facts(seen, bookmarks, space)
        made = plan(policy, facts, now)
        self._planned = state
        if not made.changes(facts):
            self._note_stuck(told, pressed=pressed and policy.full == "drop-oldest")
            return None
        self._carry_out(made, facts, seen)
        return made

    def _space(self, told: Mapping[str, Any]) -> Space:
        looked, points = told["looked_at"]
        self._given = [given for given in self._given if not given.is_known(looked, points)]
        self._growth.grown_to(int(told["foreground_bytes"]), told.get("soft"), time.monotonic())
        expected = sum(given.expected for given in self._given)
        measured = history.space_of(told, 0, measured=not self._given)
        return replace(measured, expected=expected, ahead=self._growth.ahead)

    def _facts(self, seen: history.NativeHistory, bookmarks: tuple[Mark, ...], space: Space) -> Facts:
        return Facts(
            latest=seen.latest,
            horizon=seen.horizon,
            points=seen.points(self._flushed),
            marks=bookmarks,
            pins=history.pins_of(self._volume.native),
            space=space,
            history=seen,
            shortened=self._shortened,
            minimum_broken=self._minimum_broken,
            cut_stamp=seen.horizon.stamp if self._cut_stamp is None else self._cut_stamp,
        )

    def _carry_out(self, made: Plan, facts: Facts, seen: history.NativeHistory) -> None:
        native = self._volume.native
        for name in made.drop_marks:
            self._volume.remove_bookmark(name)
        native.retain(made.horizon, list(made.points))
        for lsn in made.close_views:
            native.close_views(lsn)
        before = {point.lsn: point.flush for point in facts.points}
        self._flushed = {lsn: before.get(lsn, lsn in seen.flushed) for lsn in made.points}
        if made.cut_stamp is not None:
            self._cut_stamp = made.cut_stamp
        if made.gives_way:
            reach = native.reach()
            self._given.append(Given(int(reach["horizon"]), len(reach["points"]), made.expected, time.monotonic()))
        self._note(made.given_up)

    def _note(self, events: Iterable[Event]) -> None:
        told = [event.event for event in events]
        self._shortened = (self._shortened or "history-shortened" in told) and "history-whole" not in told
        self._minimum_broken = (self._minimum_broken or "minimum-broken" in told) and "minimum-holds" not in told
        self._waiting = [*self._waiting, *events][-EVENTS_WAITING_MAX:]
        self._tell()

    def _note_stuck(self, told: Mapping[str, Any], *, pressed: bool) -> None:
        """Tells, once, that writes wait and nothing is left to give up. (Records also end the segment that compaction cannot touch yet.)"""
        stuck = pressed and bool(told["stalled"])
        if stuck and not self._stuck:
            self._note([Event("nothing-to-give-up", {"used": told["used"], "hard": told["hard"]})])
        self._stuck = stuck

    def _tell(self) -> None:
        while self._waiting:
            event = self._waiting[0]
            try:
                self._volume.append_event(event.event, **event.details)
            except NoSpace:
                return  # It is told once there is room.
            self._waiting.pop(0)
