"""Sends requests: at the times of a schedule (an open loop), or whenever one ends (a closed loop).

A run has three parts without a break: warm-up, window, and further load until the last request of the window has ended.
The warm-up lasts longer while the engine has not settled.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from berth.bench.window import Run, Sample, drifts
from berth.bench.workload import Ask
from berth.records.results import Point

LONGEST_WARM = 3.0  # of what is wanted, while the engine has not settled


class Target(Protocol):
    async def ask(self, ask: Ask, sample: Sample) -> None:
        """Sends it, and fills in the sample. No exception: what goes wrong is the sample's error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a run."""

    warm_requests: int
    warm_s: float
    requests: int
    seconds: float
    grace_s: float = 120.0  # for the end of its last requests


class Generator:
    """One run against one target."""

    def __init__(self, target: Target, asks: Iterator[Ask], size: Size) -> None:
        self._target = target
        self._asks = asks
        self._size = size
        self._warm: list[Sample] = []
        self._measured: list[Sample] = []
        self._after: list[Sample] = []
        self._in_progress = 0  # scheduled, and not over
        self._unfinished = set[Sample]()  # of the window
        self._begin: float | None = None
        self._end: float | None = None
        self._in_flight = 0
        self._over = asyncio.Event()

    async def run(self, point: Point, arrivals: Iterable[float] = (), *, connections: int | None = None) -> Run:
        """`connections`: at most so many requests at a time, whatever is scheduled; None: no limit."""
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            if point.concurrency:
                tasks = [group.create_task(self._place(began)) for _ in range(point.concurrency)]
            else:
                door = asyncio.Semaphore(connections) if connections else None
                tasks = [group.create_task(self._open(group, arrivals, began, door))]
            limit_s = LONGEST_WARM * self._size.warm_s + self._size.seconds + self._size.grace_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), limit_s)
            self._over.set()
            for task in tasks:
                task.cancel()
        now = loop.time()
        begin, end = (now if moment is None else moment for moment in (self._begin, self._end))
        return Run(
            measured=tuple(self._measured),
            others=(*self._warm, *self._after),
            begin=begin,
            end=end,
            in_flight=self._in_flight,
        )

    async def _place(self, began: float) -> None:
        loop = asyncio.get_running_loop()
        while not self._over.is_set():
            ask = next(self._asks)
            await self._send(ask, self._sample(ask, loop.time(), began))

    async def _open(
        self, group: asyncio.TaskGroup, arrivals: Iterable[float], began: float, door: asyncio.Semaphore | None
    ) -> None:
        loop, own = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        try:
            for after in arrivals:
                await asyncio.sleep(began + after - loop.time())
                ask = next(self._asks)
                sample = self._sample(ask, began + after, began)
                task = group.create_task(self._behind(door, ask, sample))
                own.add(task)
                task.add_done_callback(own.discard)
        finally:
            for task in tuple(own):
                task.cancel()

    async def _behind(self, door: asyncio.Semaphore | None, ask: Ask, sample: Sample) -> None:
        async with door or contextlib.nullcontext():
            await self._send(ask, sample)

    async def _send(self, ask: Ask, sample: Sample) -> None:
        loop = asyncio.get_running_loop()
        sample.sent = loop.time()
        await self._target.ask(ask, sample)
        self._in_progress -= 1
        sample.ended = sample.ended or loop.time()
        self._unfinished.discard(sample)
        if self._end is not None and not self._unfinished:
            self._over.set()

    def _is_warm(self, elapsed_s: float) -> bool:
        """It is long enough, and times do not change any more; up to LONGEST_WARM times as long."""
        warm, size = self._warm, self._size
        if len(warm) < size.warm_requests or elapsed_s < size.warm_s:
            return False
        return elapsed_s >= LONGEST_WARM * size.warm_s or not any(drifts(warm[len(warm) // 2 :]))

    def _sample(self, ask: Ask, scheduled: float, began: float) -> Sample:
        """In the part of the run to which it belongs."""
        sample = Sample(scheduled=scheduled, asked_prompt=len(ask.prompt), asked_tokens=ask.tokens)
        size, elapsed_s = self._size, scheduled - began
        self._in_progress += 1
        if self._begin is None and not self._is_warm(elapsed_s):
            self._warm.append(sample)
            return sample
        if self._begin is None:
            self._begin, self._in_flight = scheduled, self._in_progress - 1
        if len(self._measured) < size.requests or scheduled - self._begin < size.seconds:
            self._measured.append(sample)
            self._unfinished.add(sample)
            return sample
        if self._end is None:
            self._end = scheduled
            if not self._unfinished:
                self._over.set()
        self._after.append(sample)
        return sample
