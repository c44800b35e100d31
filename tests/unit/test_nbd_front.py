"""The event loop for strangers: its thread and priority, its end, its errors, and what it has done by the other loop."""

from __future__ import annotations

import os
import threading

import pytest
import trio
from trio.testing import MockClock

from cdp.nbd.front import NICE, Allowance, Front, across


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_it_runs_in_a_thread_of_lower_priority_until_it_is_cancelled() -> None:
    seen: list[tuple[int, str]] = []

    async def work(task_status: trio.TaskStatus[object]) -> None:
        seen.append((nice(), threading.current_thread().name))
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            seen.append((0, "ended"))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(Front(work).run)
            assert len(seen) == 1
            nursery.cancel_scope.cancel()

    before = nice()
    trio.run(main)
    assert seen == [(min(19, before + NICE), "front"), (0, "ended")]
    assert nice() == before


@pytest.mark.parametrize("early", [True, False])
def test_its_error_is_that_of_who_started_it(early: bool) -> None:
    async def work(task_status: trio.TaskStatus[object]) -> None:
        if not early:
            task_status.started()
        raise OSError("no more sockets")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(Front(work).run)
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert "no more sockets" in repr(caught.value)


def test_it_ends_when_it_is_cancelled_before_it_has_begun() -> None:
    async def work(task_status: trio.TaskStatus[object]) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        with trio.move_on_after(0.05):
            await Front(work).run()

    trio.run(main)


def test_work_across_is_done_in_the_other_loop_and_ends_whatever_is_cancelled() -> None:
    threads: list[int] = []

    async def job() -> str:
        threads.append(threading.get_ident())
        await trio.sleep(0.01)
        threads.append(nice())
        return "done"

    async def fail() -> str:
        raise LookupError("none")

    async def main() -> None:
        home = trio.lowlevel.current_trio_token()
        found: list[str] = []

        async def work(task_status: trio.TaskStatus[object]) -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                found.append(await across(home, job))
            with pytest.raises(LookupError):
                await across(home, fail)
            task_status.started()

        async with trio.open_nursery() as nursery:
            await nursery.start(Front(work).run)
        assert found == ["done"]
        assert threads == [threading.get_ident(), nice()]
        assert await across(home, job) == "done"

    trio.run(main)


def test_answers_wait_once_the_allowance_is_used_up() -> None:
    async def main() -> None:
        allowance = Allowance(share=0.1, ahead_seconds=1.0)
        began = trio.current_time()
        for _ in range(51):
            await allowance.wait()
            allowance.charge(0.02)
        assert trio.current_time() - began < 0.5, "some are ahead"
        began = trio.current_time()
        for _ in range(100):
            await allowance.wait()
            allowance.charge(100.0)
        # Two seconds of charges at a tenth of a processor: by the test's clock, which does not depend on the machine.
        assert trio.current_time() - began == pytest.approx(20, rel=0.1)

    trio.run(main, clock=MockClock(autojump_threshold=0))
