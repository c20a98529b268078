import asyncio
import sys
import time

import pytest

from berth.router.exchange.off_loop import SWITCH_S, OffLoop

pytestmark = pytest.mark.anyio


def spin(seconds: float) -> str:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass
    return "done"


async def test_the_loop_goes_on_meanwhile() -> None:
    off_loop, turns = OffLoop(), 0
    work = asyncio.ensure_future(off_loop.run(spin, 0.3))
    while not work.done():
        turns += 1
        await asyncio.sleep(0.001)
    off_loop.close()

    assert await work == "done"
    assert turns > 10


async def test_one_after_another() -> None:
    off_loop, running, most = OffLoop(), 0, 0

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1

    await asyncio.gather(*(off_loop.run(work) for _ in range(4)))
    off_loop.close()
    assert most == 1


async def test_an_error_reaches_the_caller() -> None:
    off_loop = OffLoop()
    with pytest.raises(ZeroDivisionError):
        await off_loop.run(divmod, 1, 0)
    off_loop.close()


async def test_threads_switch_often_only_meanwhile() -> None:
    """Also after an error. The interpreter's own interval would cost less, and let the loop wait for longer."""
    off_loop, before = OffLoop(), sys.getswitchinterval()
    assert await off_loop.run(sys.getswitchinterval) == pytest.approx(SWITCH_S)
    assert sys.getswitchinterval() == before > SWITCH_S
    with pytest.raises(ZeroDivisionError):
        await off_loop.run(divmod, 1, 0)
    assert sys.getswitchinterval() == before
    off_loop.close()
