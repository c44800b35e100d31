"""How a volume stands with its policy now: the facts behind `cdp retention` and `cdp show`. Changes nothing."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cdp import history, marks
from cdp.errors import NotFound
from cdp.facts import CompactFacts, PinFacts, PolicyFacts, RetentionFacts, SpaceFacts, VolumeFacts
from cdp.retention import policy as policies
from cdp.retention.policy import Policy
from cdp.retention.state import MINUTE, SECOND
from cdp.volume import OpenVolume, instant_facts

if TYPE_CHECKING:
    from cdp import _native

PACE_MINUTES = 60
"""The time until full is told at the mean pace of as many minutes."""
PINS_MAX = 64
"""Instants that are listed as held, the oldest first."""
EXTENTS_MAX = 16384
"""Extents that are counted for one: a short call."""
ROUNDS_MAX = 10_000
"""Of compaction, one after the other: more than a volume has segments."""


def policy_facts(policy: Policy, set_stamp: int | None) -> PolicyFacts:
    """A policy as plain values."""
    return PolicyFacts(
        every_write_seconds=policy.every_write,
        minutes_seconds=policy.minutes,
        hours_seconds=policy.hours,
        days_seconds=policy.days,
        minimum_seconds=policy.minimum,
        budget_bytes=policy.budget,
        full=policy.full,
        thin=policy.thin,
        set_stamp=set_stamp,
        settings=policies.settings(policy),
    )


def retention_facts(opened: OpenVolume, volume: VolumeFacts) -> RetentionFacts:
    """The policy of an open volume, and what it means now."""
    native = opened.native
    policy, set_stamp = opened.policy()
    told = native.space()
    reach = native.reach()
    oldest, latest = native.oldest(), native.latest()
    controls = native.controls()
    return RetentionFacts(
        volume=volume,
        policy=policy_facts(policy, set_stamp),
        horizon=instant_facts(native.instant_of_lsn(reach["horizon"])),
        oldest=instant_facts(oldest),
        points=len(reach["points"]),
        promised_seconds=policy.promised,
        reached_seconds=max(0, latest.stamp - oldest.stamp) // SECOND,
        condition=history.condition(told, policy.full),
        shortened=marks.condition(controls, "history-shortened", "history-whole"),
        minimum_broken=marks.condition(controls, "minimum-broken", "minimum-holds"),
        space=space_facts(opened, told),
        pins=_pins(opened, reach),
    )


def compacted(opened: OpenVolume, volume: VolumeFacts) -> CompactFacts:
    """Keeps a volume to its policy once, and frees what nobody can reach, until a round gains nothing."""
    native = opened.native
    before = int(native.space()["used"])
    opened.keep(force=True)
    rounds = written = 0
    while rounds < ROUNDS_MAX:
        gained, spent = history.compact(native)
        rounds, written = rounds + 1, written + spent
        if gained <= 0:
            break
    reach = native.reach()
    after = int(native.space()["used"])
    return CompactFacts(
        volume=volume,
        horizon=instant_facts(native.instant_of_lsn(reach["horizon"])),
        points=len(reach["points"]),
        rounds=rounds,
        # Not the sum over the rounds: the engine's own thread compacts too.
        freed_bytes=max(0, before - after),
        written_bytes=written,
        used_bytes=after,
    )


def space_facts(opened: OpenVolume, told: Mapping[str, Any]) -> SpaceFacts:
    """How an open volume stands with its space. `told`: what `_native.Volume.space` said."""
    used, hard = int(told["used"]), told.get("hard")
    free = _disk_free(opened)
    room = [
        bound
        for bound in (None if hard is None else int(hard) - used + int(told.get("dead") or 0), free)
        if bound is not None
    ]
    written = sum(int(told[part]) for part in ("foreground_bytes", "compaction_bytes", "index_written_bytes"))
    return SpaceFacts(
        used_bytes=used,
        allowed_bytes=told.get("budget"),
        soft_bytes=told.get("soft"),
        hard_bytes=hard,
        dead_bytes=int(told.get("dead") or 0),
        shared_bytes=int(told.get("shared") or 0),
        reserve_bytes=int(told.get("reserve") or 0),
        disk_free_bytes=free,
        seconds_until_full=_until_full(opened.native, max(0, min(room))) if room else None,
        write_amplification=_ratio(written, int(told["foreground_bytes"])),
        space_amplification=_ratio(used, used - int(told.get("dead") or 0)),
    )


def _ratio(of: int, by: int) -> float | None:
    return round(of / by, 3) if by > 0 else None


def _until_full(native: _native.Volume, room: int) -> int | None:
    """Seconds until `room` bytes are written, at the mean pace of the last hour of the volume's time."""
    latest = native.latest()
    since = max(native.oldest().stamp, latest.stamp - PACE_MINUTES * MINUTE)
    try:
        first = native.instant_at(since).lsn
    except NotFound:
        return None
    stored = sum(row[4] for row in native.activity(first, latest.lsn))
    seconds = max(1, (latest.stamp - since) // SECOND)
    return room * seconds // stored if stored else None


def _disk_free(opened: OpenVolume) -> int | None:
    try:
        disk = os.statvfs(opened.entry.folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def _pins(opened: OpenVolume, reach: Mapping[str, Any]) -> tuple[PinFacts, ...]:
    """Open views, and the bookmarks below the horizon."""
    native, horizon = opened.native, int(reach["horizon"])
    views = [(pin.lsn, pin.kind, None) for pin in history.pins_of(native)]
    marks_below = [(mark.lsn, "bookmark", mark.name) for mark in opened.bookmarks() if mark.lsn < horizon]
    kept = [*(int(lsn) for lsn, _, _ in reach["points"]), horizon]
    return tuple(_pin(native, kept, *pin) for pin in sorted([*views, *marks_below])[:PINS_MAX])


def _pin(native: _native.Volume, kept: Sequence[int], lsn: int, kind: str, name: str | None) -> PinFacts:
    try:
        later = bisect_right(kept, lsn)
        held = _changed(native, lsn, kept[later]) if later < len(kept) else None
        return PinFacts(lsn, kind, native.instant_of_lsn(lsn).stamp, name, held)
    except NotFound:
        return PinFacts(lsn, kind, name=name)  # Let go since.


def _changed(native: _native.Volume, since: int, until: int) -> int | None:
    """The bytes that were written between two instants: what only the earlier one shows is no more."""
    before, after = native.view(since), native.view(until)
    extents = after.changed(before, 0, after.size, EXTENTS_MAX)
    return sum(length for _, length in extents) if len(extents) < EXTENTS_MAX else None
