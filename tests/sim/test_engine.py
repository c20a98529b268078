import asyncio
import time

import pytest

from berth.sim.engine import Engine, Interrupt, QueueFullError
from berth.sim.load.pacer import FixedClock
from tests.sim.harness import options

pytestmark = pytest.mark.anyio


async def hold(engine: Engine, taken: asyncio.Event, over: asyncio.Event) -> None:
    async with engine.slot():
        taken.set()
        await over.wait()


async def test_late_token_does_not_delay_the_others() -> None:
    clock = FixedClock(0.2, 0.2)
    started = time.monotonic()
    await clock.until(1)
    await asyncio.sleep(0.3)
    for step in (2, 3, 4, 4):
        await clock.until(step)
    assert 0.8 <= time.monotonic() - started < 1.1  # 1.1 is what drifting would take


async def test_slot_goes_to_the_longest_queued_request() -> None:
    engine = Engine(options(max_running=1, max_queued=1))
    taken, over, second = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(engine, taken, over))
        await taken.wait()
        engine.check_queue()
        tasks.create_task(hold(engine, second, over))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            engine.check_queue()
        assert (engine.stats().running, engine.stats().waiting, engine.idle.is_set()) == (1, 1, False)
        over.set()
    assert second.is_set()
    assert (engine.stats().running, engine.idle.is_set()) == (0, True)


@pytest.mark.parametrize("leave_first", [True, False])
async def test_cancelled_request_takes_no_slot(leave_first: bool) -> None:
    """The place may come in the moment in which the request is stopped."""
    engine = Engine(options(max_running=1))
    taken, over = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(hold(engine, taken, over))
        await taken.wait()
        second = tasks.create_task(hold(engine, asyncio.Event(), over))
        await asyncio.sleep(0)
        for task in (first, second) if leave_first else (second, first):
            task.cancel()
    assert (engine.stats().running, engine.stats().waiting, engine.idle.is_set()) == (0, 0, True)


async def test_slot_granted_too_late_is_handed_on() -> None:
    engine = Engine(options(max_running=1))
    taken, over, third = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def leave_and_stop_the_next() -> None:
        await hold(engine, taken, over)
        second.cancel()  # it has the place by now, and does not know yet

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(leave_and_stop_the_next())
        await taken.wait()
        second = tasks.create_task(hold(engine, asyncio.Event(), over))
        tasks.create_task(hold(engine, third, over))
        await asyncio.sleep(0)
        over.set()
    assert third.is_set()
    assert (engine.stats().running, engine.idle.is_set()) == (0, True)


async def test_interrupted_request_has_the_reason() -> None:
    engine = Engine(options())
    reasons = []

    async def request(name: str) -> None:
        async with engine.track(name, 5) as active:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                active.task.uncancel()
                reasons.append((name, active.interrupt))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(request("a"))
        tasks.create_task(request("b"))
        await asyncio.sleep(0)
        engine.interrupt(Interrupt.ABORT, "b")
        await asyncio.sleep(0)
        engine.interrupt(Interrupt.SHUTDOWN)
    assert reasons == [("b", Interrupt.ABORT), ("a", Interrupt.SHUTDOWN)]
    assert engine.stats().prompt_tokens == 10
