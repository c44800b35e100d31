"""An event loop beside the daemon's own, for clients that nobody knows yet: in a thread of its own, at a lower priority than everything else.

Invariants:
- What strangers cost in processor time, they cost while nobody else wants it: requests and the control plane go before.
- The priority stays in this thread. Work that opens volumes, and so starts threads, is done by the other loop (`across`).
- Nothing here holds a lock that requests need: sessions begin in the other loop, too.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import outcome
import trio

NICE = 10
"""Added to the daemon's own. Threads at 0 go before at once; where all processors are busy, a tenth of one is left: handshakes go on."""

SHARE = 0.05
"""Of one processor: some hundred answers a second."""
AHEAD_SECONDS = 0.25
"""Of processor time: some five hundred clients that come at once wait for none of it."""
CHARGE_MAX_SECONDS = 0.02

T = TypeVar("T")


async def across(token: trio.lowlevel.TrioToken, job: Callable[[], Awaitable[T]]) -> T:
    """Runs `job` to its end in the event loop of `token`, and waits for it whatever is cancelled here. That loop has to outlive this one."""
    here = trio.lowlevel.current_trio_token()
    if here is token:
        return await job()
    done = trio.Event()
    outcomes: list[outcome.Outcome[T]] = []

    async def run() -> None:
        outcomes.append(await outcome.acapture(job))
        here.run_sync_soon(done.set)

    token.run_sync_soon(trio.lowlevel.spawn_system_task, run)
    with trio.CancelScope(shield=True):
        await done.wait()
    return outcomes[0].unwrap()


class Allowance:
    """Processor time in the other loop's threads, which have the priority of requests: a share of one processor for all strangers together."""

    def __init__(self, *, share: float = SHARE, ahead_seconds: float = AHEAD_SECONDS) -> None:
        self._share = share
        self._ahead = ahead_seconds
        self._left = ahead_seconds
        self._since = -math.inf
        self._turn = trio.StrictFIFOLock()

    async def wait(self) -> None:
        """Until there is some left, in the order of coming."""
        async with self._turn:
            while (lacking := -self._now()) >= 0:
                await trio.sleep(max(lacking / self._share, 0.001))

    def charge(self, seconds: float) -> None:
        """What an answer took; of a long one, as of a volume that is opened, only a part."""
        self._left = self._now() - min(seconds, CHARGE_MAX_SECONDS)

    def _now(self) -> float:
        now = trio.current_time()
        self._left = min(self._ahead, self._left + (now - self._since) * self._share)
        self._since = now
        return self._left


class Front:
    """One run of an async function in a thread and an event loop of its own."""

    def __init__(self, work: Callable[[trio.TaskStatus[object]], Awaitable[object]]) -> None:
        """`work` is called in the other loop, as `Nursery.start` calls it, and runs until it is cancelled."""
        self._work = work
        self._home = trio.lowlevel.current_trio_token()
        self._begun = trio.Event()
        self._ended = trio.Event()
        self._lock = threading.Lock()
        self._cancel: Callable[[], None] | None = None
        self._cancelled = False
        self._failure: BaseException | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started when `work` is. Raises what `work` raises. Returns, also when cancelled, once the thread is gone."""
        threading.Thread(target=self._thread, name="front", daemon=True).start()
        try:
            await self._begun.wait()
            task_status.started()
            await self._ended.wait()
        finally:
            self._stop()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            if self._failure is not None:
                raise self._failure

    def _stop(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._cancel is not None:
                self._cancel()

    def _thread(self) -> None:
        try:
            # On Linux the priority is the thread's.
            os.setpriority(os.PRIO_PROCESS, 0, min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE))
            trio.run(self._main)
        except BaseException as failure:
            self._failure = failure
        finally:
            self._home.run_sync_soon(self._begun.set)
            self._home.run_sync_soon(self._ended.set)

    async def _main(self) -> None:
        here = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:
            with self._lock:
                if self._cancelled:
                    return
                self._cancel = lambda: here.run_sync_soon(scope.cancel)
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._work)
                    self._home.run_sync_soon(self._begun.set)
            finally:
                with self._lock:
                    self._cancel = None
