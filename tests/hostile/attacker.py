"""`python -m tests.hostile.attacker ATTACK --unix PATH | --port PORT [--credentials FOLDER]`: attacks until its standard input ends.

Invariants:
- With `--idle` it runs where nobody else wants the processor (SCHED_IDLE): what it does to others, it does through the daemon.
- `ready` on standard output: every hand has begun once, or `--ready-seconds` have passed. Its figures follow at the end, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import ssl
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

from tests.hostile.attacks import ATTACKS, Attack
from tests.hostile.way import Refused, Way

PAUSE_SECONDS = 0.05
"""Before a hand that was refused tries again, where connections are not counted by the second."""


@dataclass
class Figures:
    """`begun`: connections; `refused`: those that the daemon did not let come as far as they wanted; `cut`: ended by it later, or after."""

    begun: int = 0
    refused: int = 0
    cut: int = 0


class Crowd:
    """All hands of an attack."""

    def __init__(self, attack: Attack, way: Way, ready_seconds: float) -> None:
        self.figures = Figures()
        self._attack = attack
        self._way = way
        self._ready_seconds = ready_seconds
        self._next = trio.current_time()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self._attack.hands):
                nursery.start_soon(self._hand, random.Random(number))

    async def ready(self) -> None:
        with trio.move_on_after(self._ready_seconds):
            while self.figures.begun < self._attack.hands:
                await trio.sleep(PAUSE_SECONDS)

    async def _turn(self) -> None:
        """Waits for the next connection's time."""
        if self._attack.per_second is None:
            return
        self._next = max(self._next, trio.current_time()) + 1 / self._attack.per_second
        await trio.sleep_until(self._next)

    async def _hand(self, rng: random.Random) -> None:
        while True:
            await self._turn()
            self.figures.begun += 1
            try:
                await self._attack.hand(self._way, rng)
            except Refused:
                self.figures.refused += 1
                await trio.sleep(PAUSE_SECONDS)
            except (trio.BrokenResourceError, ssl.SSLError, OSError):
                self.figures.cut += 1


async def main(attack: Attack, way: Way, ready_seconds: float) -> Figures:
    crowd = Crowd(attack, way, ready_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.ready()
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    return crowd.figures


def _arguments() -> tuple[Attack, Way, float]:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.attacker", description=__doc__)
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--unix", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--credentials", type=Path)
    parser.add_argument("--ready-seconds", type=float, default=5.0)
    parser.add_argument("--idle", action="store_true")
    chosen = parser.parse_args()
    if chosen.idle:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    return ATTACKS[chosen.attack], Way(chosen.unix, chosen.port, chosen.credentials), chosen.ready_seconds


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(asdict(trio.run(main, *_arguments()))))
