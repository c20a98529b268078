"""The requests that this worker is serving, and the ways to stop one: its client left, it stalls, Berth stops.

To learn that a client has left costs a task and a future, which most requests are too short to need: a flight is
watched from the time on that `InflightRequests.look_after` finds it WATCH_AFTER_S old.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from enum import StrEnum
from typing import Any, Final, cast

from starlette.types import Message, Receive, Send

from berth.errors import InvalidRequestError, RequestTimeoutError, TooLargeError
from berth.log import log
from berth.plan import Limits

WATCH_AFTER_S: Final = 0.05
# What Granian's send() returns when it has taken the message already; it does not export the class. Any other kind has
# to be waited for: the client's connection is full.
_TAKEN: Final = "PyEmptyAwaitable"


class StopReason(StrEnum):
    GONE = "gone"  # the client closed its connection
    STALLED = "stalled"  # the client sends nothing of its request, or takes nothing of its answer
    DRAIN = "drain"  # Berth is being stopped, and the time to finish is over


class InflightRequest:
    """One request on its way. What serves it is cancelled when it is stopped, and `stopped` says why."""

    __slots__ = ("_receive", "_send", "_task", "_waiting_since", "_watcher", "loop", "since", "started", "stopped")

    def __init__(
        self, receive: Receive, send: Send, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop
    ) -> None:
        self._receive = receive
        self._send = send
        self._task = task
        self.loop = loop
        self._watcher: asyncio.Task[None] | None = None
        self._waiting_since = 0.0  # for the client; 0: not now
        self.since = loop.time()
        self.started = False  # True: the status and headers of the answer are out
        self.stopped: StopReason | None = None

    async def receive(self) -> Message:
        """The next part of the request; waits while the client sends none."""
        self._waiting_since = self.loop.time()
        message = await self._receive()
        self._waiting_since = 0.0
        return message

    async def send(self, message: Message) -> None:
        """Sends to the client; waits while its connection is full."""
        if (wait := self.push(message)) is not None:
            await self.drained(wait)

    def push(self, message: Message) -> Awaitable[None] | None:
        """Sends to the client, from a callback too. None: it is on its way. Else the client's connection is full, and
        `drained` has to be awaited with what is returned before anything else is sent.
        """
        self.started = True
        wait = self._send(message)
        return None if type(wait).__name__ == _TAKEN else wait

    async def drained(self, wait: Awaitable[None]) -> None:
        self._waiting_since = self.loop.time()
        await wait
        self._waiting_since = 0.0

    def stop(self, reason: StopReason) -> None:
        """Cancels the request. The first reason counts."""
        if self.stopped is None:
            self.stopped = reason
            self._task.cancel()

    def stalled(self, now: float, limit_s: float) -> bool:
        return 0 < self._waiting_since < now - limit_s

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work`; returns normally too when the flight was stopped meanwhile."""
        try:
            await work
        except asyncio.CancelledError:
            if self.stopped is None:
                raise
            self.resume()

    def resume(self) -> None:
        """After it was stopped: the task may go on, to tell the client."""
        self._task.uncancel()
        self._waiting_since = 0.0

    def watch(self, group: asyncio.TaskGroup) -> None:
        """From now on the flight is stopped when its client leaves. The body must have been read."""
        self._watcher = group.create_task(self._watch())

    async def _watch(self) -> None:
        """Must not raise: the worker's other tasks would end with it."""
        try:
            await self._receive()  # all that can come is http.disconnect
        except Exception:  # noqa: BLE001 - the boundary of a request: its connection is of no use any more
            log.exception("a client's connection failed")
        self._watcher = None
        self.stop(StopReason.GONE)

    def land(self) -> None:
        """It is over."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None


class InflightRequests:
    """All of them."""

    def __init__(self) -> None:
        self._flights: set[InflightRequest] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # known from the first one on: asking costs a system call
        self._unwatched: list[InflightRequest] = []

    def begin(self, receive: Receive, send: Send) -> InflightRequest:
        """A flight of the current task; `end` it."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        flight = InflightRequest(receive, send, cast("asyncio.Task[Any]", asyncio.current_task(loop)), loop)
        self._flights.add(flight)
        return flight

    def body_read(self, flight: InflightRequest) -> None:
        """Only now can its client be watched: before, what it sends is its request."""
        self._unwatched.append(flight)

    def end(self, flight: InflightRequest) -> None:
        self._flights.discard(flight)
        flight.land()

    def look_after(self, group: asyncio.TaskGroup, now: float) -> None:
        """Called every few dozen milliseconds: watches those that turn out to last."""
        young, self._unwatched = self._unwatched, []
        for flight in young:
            if flight not in self._flights:
                continue
            if now - flight.since > WATCH_AFTER_S:
                flight.watch(group)
            else:
                self._unwatched.append(flight)

    def stop_stalled(self, now: float, limit_s: float) -> None:
        for flight in tuple(self._flights):
            if flight.stalled(now, limit_s):
                flight.stop(StopReason.STALLED)

    def stop_all(self, reason: StopReason) -> None:
        for flight in tuple(self._flights):
            flight.stop(reason)

    def __len__(self) -> int:
        return len(self._flights)


class ClientGoneError(Exception):
    """The client left before its request was complete."""


async def read_body(headers: Mapping[bytes, bytes], flight: InflightRequest, limits: Limits) -> bytes:
    """The whole body. TooLargeError as soon as it is known to be over the limit: announced, or counted.

    RequestTimeoutError when the flight was stopped because nothing more of it came.
    """
    limit = limits.max_body_bytes
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit():
        raise InvalidRequestError(f"content-length must be a number, not {announced!r}.")
    if int(announced) > limit:
        raise TooLargeError(f"The body has {int(announced)} bytes; BERTH_MAX_BODY allows {limit}.", should_retry=False)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await _next_part(flight, limits, size)
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLargeError(f"The body has more than {limit} bytes: BERTH_MAX_BODY.", should_retry=False)
        if not message.get("more_body"):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


async def _next_part(flight: InflightRequest, limits: Limits, size: int) -> Message:
    try:
        message = await flight.receive()
    except asyncio.CancelledError as exc:
        if flight.stopped is None:
            raise
        flight.resume()
        stall_s = limits.client_stall_timeout_s
        raise RequestTimeoutError(f"Nothing more of the body came for {stall_s:g} s, after {size} bytes.") from exc
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message
