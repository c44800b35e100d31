"""A volume's history without a volume: records with stamps and flush points, what of them is reachable, and a model of its space.

It does what the engine must do: it refuses to keep what cannot be reached any more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from cdp.retention.plan import Plan
from cdp.retention.state import MINUTE, Facts, Mark, Pin, Point, Space


@dataclass(slots=True)
class Record:
    """One write: `block` is what it covers, `stored` the bytes that it takes."""

    lsn: int
    stamp: int
    flush: bool
    block: int = 0
    stored: int = 1


@dataclass(slots=True)
class Synthetic:
    """Record 0 is the creation. LSNs are the places in the list."""

    created: int
    records: list[Record] = field(default_factory=list)
    horizon: int = 0
    points: set[int] = field(default_factory=set)
    marks: list[Mark] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    shortened: bool = False
    minimum_broken: bool = False
    cut_stamp: int = 0
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records = [Record(0, self.created, False)]

    def write(self, stamp: int, *, flush: bool = False, block: int = 0, stored: int = 1) -> int:
        self.records.append(Record(len(self.records), stamp, flush, block, stored))
        return len(self.records) - 1

    def last(self, stamp: int, below: int | None = None) -> Point | None:
        """In the newest stretch of rising stamps that holds the time, as the engine looks up a time."""
        top = len(self.records) if below is None else min(below, len(self.records))
        for lsn in range(top - 1, -1, -1):
            if self.records[lsn].stamp <= stamp:
                return self.point(lsn)
        return None

    def point(self, lsn: int) -> Point | None:
        if not 0 <= lsn < len(self.records):
            return None
        return Point(lsn, self.records[lsn].stamp, self.records[lsn].flush)

    def minutes(self, since: int, until: int) -> list[tuple[int, int]]:
        sums: dict[int, int] = {}
        for record in self.records[max(1, since) : until]:
            sums[record.stamp // MINUTE] = sums.get(record.stamp // MINUTE, 0) + record.stored
        return sorted(sums.items())

    def flushes(self, since: int, until: int) -> list[int]:
        return [record.lsn for record in self.records[since:until] if record.flush]

    def reachable(self, lsn: int) -> bool:
        return lsn >= self.horizon or lsn in self.points

    def facts(self, space: Space | None = None) -> Facts:
        def at(lsn: int) -> Point:
            return Point(lsn, self.records[lsn].stamp, self.records[lsn].flush)

        return Facts(
            latest=at(len(self.records) - 1),
            horizon=at(self.horizon),
            points=tuple(at(lsn) for lsn in sorted(self.points)),
            marks=tuple(self.marks),
            pins=tuple(self.pins),
            space=space or Space(0, 0),
            history=self,
            shortened=self.shortened,
            minimum_broken=self.minimum_broken,
            cut_stamp=self.cut_stamp,
        )

    def apply(self, plan: Plan) -> None:
        """What the keeper and the engine do with a plan."""
        assert plan.horizon >= self.horizon, "the horizon went back"
        assert all(lsn < plan.horizon for lsn in plan.points)
        assert self.reachable(plan.horizon)
        assert all(self.reachable(lsn) for lsn in plan.points), "a point came back"
        self.pins = [pin for pin in self.pins if pin.lsn not in plan.close_views]
        pinned = {pin.lsn for pin in self.pins if self.reachable(pin.lsn) and pin.lsn < plan.horizon}
        self.horizon, self.points = plan.horizon, set(plan.points) | pinned
        self.marks = [mark for mark in self.marks if mark.name not in plan.drop_marks]
        told = [event.event for event in plan.given_up]
        self.shortened = (self.shortened or "history-shortened" in told) and "history-whole" not in told
        self.minimum_broken = (self.minimum_broken or "minimum-broken" in told) and "minimum-holds" not in told
        self.cut_stamp = self.cut_stamp if plan.cut_stamp is None else plan.cut_stamp
        self.log += told

    def needed(self) -> int:
        """The bytes that some retained instant shows."""
        versions: dict[int, list[int]] = {}
        for record in self.records[1:]:
            versions.setdefault(record.block, []).append(record.lsn)
        points = sorted({*self.points, self.horizon})
        total = 0
        for lsns in versions.values():
            for place, lsn in enumerate(lsns):
                end = lsns[place + 1] if place + 1 < len(lsns) else len(self.records) + 1
                # The version is seen by the instants in lsn..end.
                if end > self.horizon or bisect_left(points, end) > bisect_left(points, lsn):
                    total += self.records[lsn].stored
        return total

    def window(self) -> int:
        return sum(record.stored for record in self.records[self.horizon + 1 :])


def ideal_points(history: Synthetic, widths: Sequence[tuple[int, int | None]], now: int) -> set[int]:
    """What tiers of (width, since) must keep of all records below the horizon, counted anew from the whole history."""
    kept: set[int] = set()
    passed = history.records[1 : history.horizon]
    for width, since in widths:
        buckets: dict[int, list[Record]] = {}
        for record in passed:
            buckets.setdefault(record.stamp // width, []).append(record)
        for bucket, inside in buckets.items():
            if since is None or (bucket + 1) * width > since:
                flushed = [record for record in inside if record.flush]
                kept.add((flushed or inside)[-1].lsn)
    return kept
