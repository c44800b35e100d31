"""A budget that several volumes share: how much each may use.

Invariants:
- The allowances add up to the budget, whenever it can hold what volumes that nobody writes to use.
- While there is room, nobody has to shrink; when there is none, the largest shrink first, to one common level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sharer:
    """A volume under a shared budget. `used`: the bytes that are charged to it; `growing`: it can be written to now."""

    volume: str
    used: int
    growing: bool = True


def share(budget: int, sharers: Sequence[Sharer]) -> Mapping[str, int]:
    """The bytes that each growing volume may use. What the others use is taken off first: nobody could make them shrink."""
    growing = [sharer for sharer in sharers if sharer.growing]
    room = max(0, budget - sum(sharer.used for sharer in sharers if not sharer.growing))
    top = level(room, [sharer.used for sharer in growing])
    held = {sharer.volume: sharer.used if top is None else min(sharer.used, top) for sharer in growing}
    # What is free is lent in equal parts, anew each time: two that grow at once cannot both take all of it.
    free = (room - sum(held.values())) // len(growing) if growing else 0
    return {sharer.volume: held[sharer.volume] + free for sharer in growing}


def level(room: int, used: Sequence[int]) -> int | None:
    """The height at which the largest must be cut for the sum to fit; None if it fits as it is."""
    if sum(used) <= room:
        return None
    left = room
    ordered = sorted(used)
    for place, amount in enumerate(ordered):
        equal = left // (len(ordered) - place)
        if amount > equal:
            return equal
        left -= amount
    return None
