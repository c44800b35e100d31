"""Tiers: one instant per minute, hour or day of Unix time, the last flush point in it, else the last record.

Invariants:
- A bucket's instant depends only on the records in it that the horizon has passed: planning in many small steps and in one large one
  ends with the same points, and planning again changes nothing.
- What is chosen for a bucket stays until a better one passes, or the whole bucket is older than its tier's span.
- Only candidates are ever chosen: nothing that was given up comes back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cdp.retention.policy import Policy
from cdp.retention.state import DAY, HOUR, MINUTE, SECOND, History, Point


@dataclass(frozen=True, slots=True)
class Tier:
    """`width` of a bucket and `since`, the stamp from which on buckets count: those that end after it."""

    width: int
    since: int

    def wants(self, stamp: int) -> bool:
        return (stamp // self.width + 1) * self.width > self.since


def tiers(policy: Policy, now: int) -> list[Tier]:
    """The tiers that the policy has, at the stamp `now`."""
    spans = ((MINUTE, policy.minutes), (HOUR, policy.hours), (DAY, policy.days))
    return [Tier(width, 0 if span is None else now - span * SECOND) for width, span in spans if span != 0]


def choose(ladder: Iterable[Tier], candidates: Iterable[Point]) -> set[int]:
    """The LSNs that the tiers keep of the candidates."""
    best: dict[tuple[int, int], Point] = {}
    ordered = sorted(candidates, key=lambda point: point.lsn)
    for tier in ladder:
        for point in ordered:
            if tier.wants(point.stamp):
                place = (tier.width, point.stamp // tier.width)
                held = best.get(place)
                if held is None or point.flush >= held.flush:
                    best[place] = point
    return {point.lsn for point in best.values()}


def passed(ladder: Iterable[Tier], history: History, since: int, until: int) -> list[Point]:
    """Of the records from LSN `since` on, below `until`: those that could be chosen for a bucket."""
    if since >= until:
        return []
    minutes = [minute for minute, _ in history.minutes(since, until)]
    flushes = history.flushes(since, until)
    found: dict[int, Point] = {}
    for tier in ladder:
        starts = {minute * MINUTE // tier.width * tier.width for minute in minutes if tier.wants(minute * MINUTE)}
        for start in sorted(starts):
            point = _end(history, flushes, since, until, range(start, start + tier.width))
            if point is not None:
                found[point.lsn] = point
    return list(found.values())


def _end(history: History, flushes: Sequence[int], since: int, until: int, bucket: range) -> Point | None:
    """The last flush point stamped in the bucket, else the last record."""
    last = history.last(bucket.stop - 1, until)
    if last is None or last.lsn < since or last.stamp not in bucket:
        return None
    place = bisect_right(flushes, last.lsn)
    flushed = history.point(flushes[place - 1]) if place else None
    if flushed is not None and flushed.stamp in bucket:
        return replace(flushed, flush=True)
    return replace(last, flush=False)
