"""The requests that this worker is serving, and what stops one: its client disconnects or stalls, or Berth shuts down.

Watching for a disconnect costs a task and a future, which most requests are too short to need: a request is watched
as soon as `InflightRequests` finds it WATCH_AFTER_S old.

A body has BERTH_CLIENT_STALL_TIMEOUT for each of its pieces, and as a whole the same and a second for every
LEAST_BYTES_PER_S of it: a client that sends a byte now and then would hold what it has sent for ever.
"""

import asyncio
import sys
from collections.abc import Awaitable, Mapping
from enum import StrEnum
from typing import Any, Final, cast

from starlette.types import Message, Receive, Send

from berth.errors import ApiError, InvalidRequestError, NotReadyError, RequestTimeoutError, TooLargeError
from berth.log import log
from berth.plan import Limits
from berth.router.exchange.content_encoding import BodyDecoder, body_decoder
from berth.router.exchange.memory_budget import UNCOUNTED_BYTES, MemoryBudget

WATCH_AFTER_S: Final = 0.05
_EARLY_S: Final = 0.002  # by which a timer may be early
_LOOK_PAUSE_S: Final = 0.025  # from one look for such requests to the next
_MOST_DIGITS: Final = 18  # of a length
LEAST_BYTES_PER_S: Final = 32 << 10  # of a body, on the whole: a slow phone sends a picture at this rate
# What Granian's send() returns when it has taken the message already; it does not export the class. Any other kind has
# to be awaited: the client's connection is full.
_SENT: Final = "PyEmptyAwaitable"


Client = tuple[str, str]  # host and port, as in ASGI's scope


class StopReason(StrEnum):
    GONE = "gone"  # the client closed its connection
    STALLED = "stalled"  # the client sends nothing of its request, or reads nothing of its response
    DRAIN = "drain"  # Berth is shutting down, and the drain timeout is over
    REPLACED = "replaced"  # the router was reloaded, and the time for what it had then is over


# What the client reads of it. What it may do is the same: to send the request again.
DRAINED: Final = {
    StopReason.DRAIN: "Berth is shutting down.",
    StopReason.REPLACED: "Berth's router was reloaded, and the time of earlier requests is over. Send it again.",
}


def drain_error(reason: StopReason) -> NotReadyError:
    return NotReadyError(DRAINED[reason], retry_after_s=5)


class InflightRequest:
    """The client's side of one request. When it is stopped, its task is cancelled and `stopped` has the reason."""

    __slots__ = (
        *("_send", "_task", "client", "held_bytes", "key", "loop", "receive", "waiting_since"),
        *("complete", "received_bytes", "receiving", "since", "started", "stopped", "watcher"),
    )

    def __init__(
        self,
        receive: Receive,
        send: Send,
        task: "asyncio.Task[Any]",
        loop: asyncio.AbstractEventLoop,
        client: Client | None,
    ) -> None:
        self.receive = receive  # the next part of the request
        self._send = send
        self._task = task
        self.loop = loop
        self.client = client  # its address
        self.key = 0  # the slot of its API key; 0: anonymous, or not known yet
        self.watcher: asyncio.Task[None] | None = None
        self.waiting_since = 0.0  # for the client; 0: not waiting
        self.since = loop.time()
        self.receiving = False  # its body
        self.received_bytes = 0  # of the body
        self.held_bytes = 0  # of the worker's memory for bodies
        self.started = False  # True: the status and headers of the response are sent
        self.complete = False  # the whole response is: many clients close their connection then
        self.stopped: StopReason | None = None

    async def send(self, message: Message) -> None:
        """Sends to the client. Waits while its connection is full."""
        self.started = True
        wait = self._send(message)
        if type(wait).__name__ != _SENT:
            await self.drained(wait)

    def push(self, message: Message) -> Awaitable[None] | None:
        """Sends to the client without waiting, so that a callback can use it. None: sent. Otherwise the client's
        connection is full, and `drained` has to be awaited with the result before anything else is sent.
        """
        self.started = True
        wait = self._send(message)
        return None if type(wait).__name__ == _SENT else wait

    async def drained(self, wait: Awaitable[None]) -> None:
        self.waiting_since = self.loop.time()
        await wait
        self.waiting_since = 0.0

    def stop(self, reason: StopReason) -> None:
        """Cancels the request. The first reason counts, and none after the whole response: its end is near."""
        if self.stopped is None and not self.complete:
            self.stopped = reason
            self._task.cancel()

    def stalled(self, now: float, limit_s: float) -> bool:
        if 0 < self.waiting_since < now - limit_s:
            return True
        return self.receiving and now - self.since > limit_s + self.received_bytes / LEAST_BYTES_PER_S

    def resume(self) -> bool:
        """After a CancelledError: the task may continue, to send an error to the client. False: it was not `stop` that
        has cancelled it.
        """
        if self.stopped is None:
            return False
        self._task.uncancel()
        self.waiting_since = 0.0
        return True

    def watch(self, group: asyncio.TaskGroup) -> None:
        """From now on the request is stopped when its client disconnects. The body must have been read."""
        self.watcher = group.create_task(self._watch())

    async def _watch(self) -> None:
        """Must not raise: the worker's other tasks would end with it."""
        try:
            while (await self.receive())["type"] != "http.disconnect":
                pass  # the empty end of the body, which `read_body` does not wait for
        except Exception:  # noqa: BLE001 - the boundary of a request: its connection is unusable
            log.exception("client connection failed")
        self.watcher = None
        self.stop(StopReason.GONE)


class InflightRequests:
    """All requests of this worker."""

    def __init__(self, memory: MemoryBudget | None = None) -> None:
        """`memory`: for their bodies; None: for any."""
        self.memory = memory or MemoryBudget(sys.maxsize)
        self._requests: set[InflightRequest] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # kept from the first request on: a lookup is a system call
        self._unwatched: list[InflightRequest] = []  # the oldest first
        self._watchers: asyncio.TaskGroup | None = None
        self._look: asyncio.TimerHandle | None = None  # for those that last

    def begin(self, receive: Receive, send: Send, client: Client | None = None) -> InflightRequest:
        """A request of the current task; `end` it."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        request = InflightRequest(receive, send, cast("asyncio.Task[Any]", asyncio.current_task(loop)), loop, client)
        self._requests.add(request)
        return request

    def body_read(self, request: InflightRequest) -> None:
        """The client can be watched from now on: before, what it sends is its request."""
        self._unwatched.append(request)
        if self._look is None and self._watchers is not None:
            self._look = request.loop.call_later(WATCH_AFTER_S, self._look_for_long_running, request.loop)

    def watch_in(self, group: asyncio.TaskGroup | None) -> None:
        """From now on requests that last are watched, by tasks of this group; None: no more are."""
        self._watchers = group

    def end(self, request: InflightRequest) -> None:
        self._requests.discard(request)
        if request.held_bytes:
            self.memory.give_back(request.held_bytes)
            request.held_bytes = 0
        if request.watcher is not None:
            request.watcher.cancel()

    def hold(self, request: InflightRequest, size: int) -> None:
        """From now on its body takes `size` bytes. OverloadedError if there are no more."""
        self.memory.take(size - request.held_bytes)
        request.held_bytes = size

    def _look_for_long_running(self, loop: asyncio.AbstractEventLoop) -> None:
        """Only while there are requests, and not for each of them: an idle worker has nothing to do."""
        now, self._look = loop.time(), None
        if self._watchers is not None:
            self.watch_long_running(self._watchers, now)
        if self._unwatched:
            due = self._unwatched[0].since + WATCH_AFTER_S
            self._look = loop.call_at(max(due, now + _LOOK_PAUSE_S), self._look_for_long_running, loop)

    def watch_long_running(self, group: asyncio.TaskGroup, now: float) -> None:
        unwatched, self._unwatched = self._unwatched, []
        for request in unwatched:
            if request not in self._requests:
                continue
            if now - request.since > WATCH_AFTER_S - _EARLY_S:
                request.watch(group)
            else:
                self._unwatched.append(request)

    def stop_stalled(self, now: float, limit_s: float) -> set[Client]:
        """Returns the clients that take nothing of their responses: their connections are of no use any more. One whose
        connection carries other streams, by HTTP/2, is not among them: it loses the stream alone.
        """
        stalled = {request for request in self._requests if request.stalled(now, limit_s)}
        for request in stalled:
            request.stop(StopReason.STALLED)
        silent = {request.client for request in stalled if request.started and request.client is not None}
        return silent and silent - {request.client for request in self._requests - stalled}

    def clients(self) -> set[Client]:
        """Those with a request."""
        return {request.client for request in self._requests if request.client is not None}

    def stop_all(self, reason: StopReason) -> None:
        for request in tuple(self._requests):
            request.stop(reason)

    def __len__(self) -> int:
        return len(self._requests)


async def read_body(
    headers: Mapping[bytes, bytes], request: InflightRequest, limits: Limits, memory: MemoryBudget
) -> bytes:
    """The complete body, decoded. TooLargeError as soon as it is over the limit, by its content-length or by the bytes
    so far. RequestTimeoutError when the request was stopped because the client sent nothing more, or too slowly, and
    NotReadyError when Berth shuts down. InvalidRequestError when its chunks are invalid or it ends too early; the
    client may be gone by then, which the server does not report. OverloadedError when there is no memory for it. What
    was taken of `memory` is given back at the end of the request.
    """
    limit, size = limits.max_body_bytes, 0
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit() or (length := int(announced[:_MOST_DIGITS])) > limit:
        raise _length_error(announced, limits)
    decoder = body_decoder(encoding, limit) if (encoding := headers.get(b"content-encoding")) else None
    parts: list[bytes] = []
    request.receiving = True
    try:
        while request.receiving:
            request.waiting_since = request.loop.time()
            message = await request.receive()  # waits while the client sends nothing
            request.waiting_since = 0.0
            if message["type"] == "http.disconnect":
                received = request.received_bytes
                raise InvalidRequestError(f"The body is incomplete after {received} bytes, or its chunks are invalid.")
            part = message.get("body", b"")
            received = request.received_bytes = request.received_bytes + len(part)
            # The wait for an empty part after the last byte would cost a turn of two threads. Chunks have no length.
            last = not message.get("more_body") or (received == length > 0 and b"transfer-encoding" not in headers)
            if decoder is not None:
                part = await _decoded(decoder, part, request, limits, memory, size=size, last=last)
            size += len(part)
            if size > UNCOUNTED_BYTES or size > limit:
                _hold(request, size, limits, memory)
            parts.append(part)
            request.receiving = not last
    except asyncio.CancelledError as exc:
        if not request.resume():
            raise
        raise _stop_error(request, limits.client_stall_timeout_s) from exc
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _decoded(  # one argument per thing that it counts
    decoder: BodyDecoder,
    part: bytes,
    request: InflightRequest,
    limits: Limits,
    memory: MemoryBudget,
    *,
    size: int,
    last: bool,
) -> bytes:
    """What this part of the body decodes to; `size` is that of the parts before it. Errors as for `read_body`."""
    pieces = []
    for piece in decoder.feed(part):
        size += len(piece)
        _hold(request, size, limits, memory)
        pieces.append(piece)
        await asyncio.sleep(0)  # other requests are served between two pieces
    if last:
        decoder.finish()
    return b"".join(pieces)


def _hold(request: InflightRequest, size: int, limits: Limits, memory: MemoryBudget) -> None:
    """Counts a body of this size. TooLargeError beyond its limit, OverloadedError where there is no memory for it."""
    if size > limits.max_body_bytes:
        allowed = limits.max_body_bytes
        raise TooLargeError(f"The body is longer; BERTH_MAX_BODY allows {allowed}.", should_retry=False)
    if size > request.held_bytes:
        memory.take(size - request.held_bytes)
        request.held_bytes = size


def _length_error(announced: bytes, limits: Limits) -> ApiError:
    if not announced.isdigit():
        return InvalidRequestError(f"content-length must be a number, not {announced[:40]!r}.")
    length, allowed = int(announced[:_MOST_DIGITS]), limits.max_body_bytes
    return TooLargeError(f"The body has {length} bytes; BERTH_MAX_BODY allows {allowed}.", should_retry=False)


def _stop_error(request: InflightRequest, stall_s: float) -> ApiError:
    """Of a request that was stopped before its body was complete."""
    if request.stopped in DRAINED:
        return drain_error(request.stopped)
    size = request.received_bytes
    since_s = request.loop.time() - request.since
    if since_s <= stall_s + size / LEAST_BYTES_PER_S:
        return RequestTimeoutError(f"The body is incomplete: no data for {stall_s:g} s after {size} bytes.")
    least = f"{stall_s:g} s and a second for every {LEAST_BYTES_PER_S >> 10} KiB"
    return RequestTimeoutError(f"The body is incomplete: only {size} bytes in {since_s:.0f} s. It has {least}.")
