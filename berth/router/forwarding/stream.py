"""One engine's stream on its way to the client, and the batches in which streams are flushed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import orjson

from berth import json_text
from berth.apis.base import StreamEncoder
from berth.apis.stream_events import HEARTBEAT_S
from berth.canonical import Failure
from berth.dialects.base import StreamDecoder
from berth.router.balancing.upstreams import Upstream
from berth.router.exchange.inflight import InflightRequest
from berth.router.upstream.connection import Connection, UpstreamFailureError
from berth.sse import DONE, data_of

FLUSH_S: Final = 0.002  # invisible at 20 ms from token to token
PIECE_BYTES: Final = 64 << 10  # are decoded in one turn of the loop: thousands of the smallest frames take 0.03 s
TICK_S: Final = 0.4 * HEARTBEAT_S  # heartbeats come after one to two of them, and then every other


class NoContentError(UpstreamFailureError):
    """The engine is not silent, but says nothing."""


class FlushRounds:
    """When streams are many, what comes for them within FLUSH_S is sent in one round: waking the thread that writes to
    the clients costs as much as forwarding a token does. A piece that comes after a quiet moment is sent at once.
    """

    __slots__ = ("_last", "_loop", "_waiting")

    def __init__(self) -> None:
        self._last = 0.0  # when the last round was
        self._waiting: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def join(self, flush: Callable[[], None]) -> None:
        """`flush` is called now or within FLUSH_S."""
        if self._waiting:
            self._waiting.append(flush)
            return
        now = time.monotonic()
        if now - self._last > FLUSH_S:
            self._last = now
            flush()
            return
        self._waiting.append(flush)
        loop = self._loop = self._loop or asyncio.get_running_loop()
        loop.call_later(FLUSH_S, self._round)

    def _round(self) -> None:
        self._last = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for flush in waiting:
            flush()


class StreamForwarder:
    """Forwards a stream that has begun from the engine's connection to the client's, from callback to callback: no task
    is woken for a token. The task in `run` waits for the end, or for a client whose connection is full; until that is
    drained, nothing is read from the engine.
    """

    __slots__ = (
        *(
            "_blocked",
            "_connection",
            "_decoder",
            "_encoder",
            "_inflight",
            "_over",
            "_quiet",
            "_rest",
            "_rounds",
            "_said",
        ),
        *("_said_at", "_sent", "_sent_before", "_timeout_s", "_timer", "_translate", "_upstream", "_wakes", "last"),
    )

    def __init__(
        self,
        decoder: StreamDecoder,
        upstream: Upstream,
        connection: Connection,
        inflight: InflightRequest,
        rounds: FlushRounds,
        *,
        encoder: StreamEncoder,
    ) -> None:
        self._decoder = decoder
        self._upstream = upstream
        self._connection = connection
        self._inflight = inflight
        self._rounds = rounds
        self._encoder = encoder
        self._translate = None if encoder.plain else encoder.feed
        self._blocked: Awaitable[None] | None = None  # the client's connection is full
        self._over = False
        self._rest = b""  # was taken from the connection, and waits for the next turn of the loop
        self._wakes = inflight.loop.create_future()
        self._timeout_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sent, self._sent_before = 0, -1  # messages to the client, now and at the last tick
        self._quiet = 0  # ticks since one was sent
        self._said = 0  # frames that say something, at the last tick that found a new one
        self._said_at = inflight.loop.time()
        self.last = b""  # the canonical frames that are sent with the end of a response that ended well

    async def run(self, timeout_s: float) -> Failure | None:
        """Returns when the stream is over: a Failure unless it ended well. UpstreamFailureError if it was cut, or if
        the engine was silent or said nothing for `timeout_s`.
        """
        self._timeout_s = timeout_s
        self._timer = self._inflight.loop.call_later(min(TICK_S, timeout_s), self._tick)
        self._connection.listen(partial(self._rounds.join, self._forward), timeout_s)
        try:
            self._forward()
            while True:
                await self._wakes
                self._wakes = self._inflight.loop.create_future()
                if self._blocked is not None:
                    await self._inflight.drained(self._blocked)
                    self._blocked = None
                    self._connection.resume()
                    self._forward()
                elif self.last or self._decoder.failure is not None:
                    return self._decoder.failure
                elif not self._rest and self._connection.over():
                    self.last = DONE  # some engines omit it, some clients wait for it
                    return self._decoder.end()
        finally:
            self._over = True
            self._timer.cancel()

    def _forward(self) -> None:
        """Must not raise: other streams wait in the same round. Nor may it touch the connection when the stream is
        over: that may carry another request by then.
        """
        if self._over or self._blocked is not None or self._wakes.done():
            return
        decoder, connection = self._decoder, self._connection
        try:
            if decoder.failure is None and (chunk := self._rest or connection.take()):
                if len(chunk) > PIECE_BYTES:
                    self._rest, chunk = chunk[PIECE_BYTES:], chunk[:PIECE_BYTES]
                    self._inflight.loop.call_soon(self._forward)
                elif self._rest:
                    self._rest = b""
                    self._inflight.loop.call_soon(self._forward)  # for what came meanwhile
                self._upstream.progress += 1
                frames = decoder.feed(chunk)
                if frames.endswith(DONE):
                    self.last = frames
                elif frames and (encoded := frames if self._translate is None else self._translate(frames)):
                    self._sent += 1
                    message = {"type": "http.response.body", "body": encoded, "more_body": True}
                    self._blocked = self._inflight.push(message)
                    if self._blocked is not None:
                        connection.hold()
        except Exception as exc:  # noqa: BLE001 - raised again by the task, which is the boundary of the request
            self._wakes.set_exception(exc)
            return
        over = (connection.complete or connection.error is not None) and not self._rest
        if over or self.last or self._blocked is not None or decoder.failure is not None:
            self._wakes.set_result(None)

    def _tick(self) -> None:
        """Every few seconds, because the engine's silence alone does not show two things:

        1. the client gets nothing: it gets a heartbeat. Tool calls, for example, may be held back to be sent complete;
        2. the engine sends frames that say nothing: after `timeout_s` that is as good as silence.
        """
        loop = self._inflight.loop
        self._timer = loop.call_later(min(TICK_S, self._timeout_s), self._tick)
        now, said = loop.time(), self._decoder.frames - self._decoder.mute
        free = self._blocked is None and not self._wakes.done()
        if said != self._said or not free:  # while the client is full, nothing is read
            self._said, self._said_at = said, now
        elif now - self._said_at >= self._timeout_s:
            silence = f"nothing but frames without content from the engine for {self._timeout_s:g} s"
            self._wakes.set_exception(NoContentError(silence))
            return
        self._quiet = self._quiet + 1 if self._sent == self._sent_before else 0
        self._sent_before = self._sent
        if self._quiet % 2 == 0 or not free:  # a heartbeat every other tick is enough
            return
        try:
            encoded = self._encoder.heartbeat("waiting for the engine")
            self._blocked = self._inflight.push({"type": "http.response.body", "body": encoded, "more_body": True})
        except Exception as exc:  # noqa: BLE001 - raised again by the task, which is the boundary of the request
            self._wakes.set_exception(exc)
            return
        if self._blocked is not None:
            self._connection.hold()
            self._wakes.set_result(None)


def is_opening(frame: bytes) -> bool:
    """True for a frame after which a client still has nothing to show: a comment, a role, an empty text.

    An engine that fails at once often reports that inside a stream that it has begun already, after the chunk with the
    role. As long as only such openings came they are held back, and the request can still be sent to another engine.
    """
    data = data_of(frame)
    if data is None:
        return True
    try:
        chunk = json_text.loads(data)
    except orjson.JSONDecodeError:  # [DONE], or something that only the client can judge
        return False
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, dict) or choice.get("finish_reason") or choice.get("text"):
            return False
        delta = choice.get("delta")
        if isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role"):
            return False
    return True
