"""Who makes room for a newcomer, and how many sessions a peer may have."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
import trio

from cdp.errors import Busy
from cdp.nbd.gate import Gate, Sessions


@dataclass(eq=False)
class Handshake:
    peer: Hashable
    waits_for_client: bool = True
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


def displaced(*under_way: Handshake) -> list[int]:
    """Which of the handshakes a newcomer costs, by number; all slots are theirs."""

    async def main() -> list[int]:
        gate = Gate(len(under_way))
        with ExitStack() as stack:
            for one in under_way:
                await gate.admit()
                stack.enter_context(gate.passing(one))
            with trio.move_on_after(0):
                await gate.admit()
        return [number for number, one in enumerate(under_way) if one.scope.cancel_called]

    return trio.run(main)


def test_the_peer_with_most_handshakes_makes_room_with_its_oldest() -> None:
    assert displaced(*map(Handshake, ["slow", "crowd", "other", "crowd", "crowd"])) == [1]


def test_of_peers_with_as_many_the_oldest_makes_room() -> None:
    assert displaced(*map(Handshake, ["a", "b", "c"])) == [0]


def test_who_waits_for_the_server_is_not_displaced() -> None:
    assert displaced(Handshake("crowd", waits_for_client=False), Handshake("crowd"), Handshake("crowd")) == [1]
    assert displaced(Handshake("a", waits_for_client=False)) == []


def test_a_peer_has_so_many_sessions_at_most() -> None:
    sessions = Sessions(2)
    for _ in range(2):
        sessions.check("a")
        sessions.began("a")
    sessions.check("b")
    with pytest.raises(Busy, match="you have 2 sessions"):
        sessions.check("a")
    sessions.ended("a")
    sessions.check("a")


def test_trusted_clients_have_no_bound() -> None:
    sessions = Sessions(None)
    for _ in range(1000):
        sessions.began("a")
    sessions.check("a")
    assert sessions.descriptors_max > Sessions(1).descriptors_max
