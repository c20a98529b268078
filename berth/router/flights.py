"""The requests that this worker is serving, and the ways to stop one: its client left, it stalls, Berth stops."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, cast

from starlette.types import Message, Receive, Send


class StopReason(StrEnum):
    GONE = "gone"  # the client closed its connection
    STALLED = "stalled"  # the client takes nothing of its answer any more
    DRAIN = "drain"  # Berth is being stopped, and the time to finish is over


class Flight:
    """One request on its way. What serves it is cancelled when it is stopped, and `stopped` says why."""

    __slots__ = ("_loop", "_send", "_sending_since", "_task", "started", "stopped")

    def __init__(self, send: Send, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        self._send = send
        self._task = task
        self._loop = loop
        self._sending_since = 0.0
        self.started = False  # True: the status and headers of the answer are out
        self.stopped: StopReason | None = None

    async def send(self, message: Message) -> None:
        """Sends to the client; waits while its connection is full."""
        self.started = True
        self._sending_since = self._loop.time()
        await self._send(message)
        self._sending_since = 0.0

    def stop(self, reason: StopReason) -> None:
        """Cancels the request. The first reason counts."""
        if self.stopped is None:
            self.stopped = reason
            self._task.cancel()

    def stalled(self, now: float, limit_s: float) -> bool:
        return self._sending_since > 0 and now - self._sending_since > limit_s

    async def guard(self, receive: Receive, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` (which must not raise) and cancels it when the client leaves. Returns normally when the flight
        was stopped.
        """
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(self._watch(receive))
                await work
                watcher.cancel()
        except asyncio.CancelledError:
            if self.stopped is None:
                raise
            self._task.uncancel()
            self._sending_since = 0.0

    async def _watch(self, receive: Receive) -> None:
        await receive()  # the body has been read: all that can come is http.disconnect
        self.stop(StopReason.GONE)


class Flights:
    """All of them."""

    def __init__(self) -> None:
        self._flights: set[Flight] = set()

    @contextmanager
    def flight(self, send: Send) -> Iterator[Flight]:
        """A flight of the current task."""
        loop = asyncio.get_running_loop()
        task = cast("asyncio.Task[Any]", asyncio.current_task(loop))
        flight = Flight(send, task, loop)
        self._flights.add(flight)
        try:
            yield flight
        finally:
            self._flights.discard(flight)

    def stop_stalled(self, limit_s: float) -> None:
        now = asyncio.get_running_loop().time()
        for flight in tuple(self._flights):
            if flight.stalled(now, limit_s):
                flight.stop(StopReason.STALLED)

    def stop_all(self, reason: StopReason) -> None:
        for flight in tuple(self._flights):
            flight.stop(reason)

    def __len__(self) -> int:
        return len(self._flights)
