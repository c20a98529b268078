"""Requests on the clock of the batch, in virtual time: the event loop's clock jumps to the next thing that is due."""

import asyncio

import pytest

from berth.sim.load.batch import LoadModel
from berth.sim.load.pacer import Pacer
from tests.fakes.virtual_time import run


async def times(pacer: Pacer, prompt: int, tokens: int) -> list[float]:
    loop = asyncio.get_running_loop()
    async with pacer.seat(range(prompt), tokens) as seat:
        found = []
        for step in range(1, tokens + 2):
            await seat.until(step)
            found.append(loop.time())
        return found


def test_tokens_come_when_the_batch_has_them() -> None:
    async def scene() -> tuple[list[float], list[float]]:
        pacer = Pacer(LoadModel(itl_s=0.01, itl_per_running_s=0.001, prefill_rate=1000), 0.5)
        return await times(pacer, 100, 4), await times(pacer, 50, 2)

    first, second = run(scene())
    assert first == pytest.approx([0.6, 0.611, 0.622, 0.633, 0.633])
    assert second == pytest.approx([1.183, 1.194, 1.194])


def test_client_that_leaves_makes_room_and_the_next_one_starts_anew() -> None:
    async def scene() -> float:
        pacer = Pacer(LoadModel(itl_s=1.0, max_running=1), 0.0)
        leaver = asyncio.create_task(times(pacer, 1, 100))
        await asyncio.sleep(2.5)
        leaver.cancel()
        await asyncio.sleep(7.5)
        began = asyncio.get_running_loop().time()
        return (await times(pacer, 1, 3))[-1] - began

    assert run(scene()) == pytest.approx(2.0)
