"""When each token of a request is due: at fixed times, or as the batch of requests allows."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from berth.sim.load.batch import Batch, LoadModel, Running


class Clock(Protocol):
    @property
    def cached(self) -> int:
        """Tokens of the prompt that the prefix cache had."""
        ...

    async def until(self, step: int) -> None:
        """Waits for token `step`, 1 for the first. Yields to the event loop once per new step."""
        ...


class FixedClock:
    """Counted from the start: a late token does not delay the following ones."""

    cached = 0

    def __init__(self, ttft_s: float, itl_s: float) -> None:
        self._first = time.monotonic() + ttft_s
        self._itl_s = itl_s
        self._step = 0

    async def until(self, step: int) -> None:
        if step == self._step:
            return
        self._step = step
        await asyncio.sleep(max(0.0, self._first + max(0, step - 1) * self._itl_s - time.monotonic()))


class Seat:
    """Of one request in the batch."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._waiter: asyncio.Future[None] | None = None

    @property
    def cached(self) -> int:
        return self._running.cached

    async def until(self, step: int) -> None:
        while self._running.tokens < min(step, self._running.tokens_due):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Pacer:
    """Runs the steps of a batch on the event loop's clock. A late step does not delay those that follow at once."""

    def __init__(self, model: LoadModel, ttft_s: float) -> None:
        self.batch = Batch(model)
        self._ttft_s = ttft_s
        self._seats: dict[Running, Seat] = {}
        self._busy = False
        self._due = 0.0

    @asynccontextmanager
    async def seat(self, prompt: Sequence[int], tokens: int) -> AsyncIterator[Seat]:
        """`ttft` is what a request takes besides its work in the batch."""
        await asyncio.sleep(self._ttft_s)
        running = self.batch.add(prompt, max(1, tokens))
        seat = self._seats[running] = Seat(running)
        try:
            if not self._busy:
                self._due = asyncio.get_running_loop().time()
                self._begin()
            yield seat
        finally:
            del self._seats[running]
            self.batch.remove(running)

    def _begin(self) -> None:
        took_s = self.batch.begin()
        self._busy = took_s is not None
        if took_s is not None:
            self._due += took_s
            asyncio.get_running_loop().call_at(self._due, self._end)

    def _end(self) -> None:
        for running in self.batch.end():
            if running in self._seats:
                self._seats[running].wake()
        self._begin()
