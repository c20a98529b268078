"""One engine's stream on its way to the client: frames in, frames out, and when the first of them may go.

An engine that fails at once often says so inside a stream that it has begun already, after the chunk that only names
the role. As long as nothing but such openings came, they are held back, and another engine can still be asked.

Moves the bytes of streams that have begun, from the engines' connections to those of the clients.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from berth.canonical import Failure, Transcript, Usage
from berth.dialects.base import StreamDecoder
from berth.router.balancing.upstreams import Upstream
from berth.router.exchange.inflight import InflightRequest
from berth.router.upstream.connection import Connection
from berth.sse import DONE, FrameSplitter, data_of


class UpstreamStream:
    """Follows a stream. `feed` gives what the client gets; a failure inside the stream is in `failure` then."""

    __slots__ = ("_decode", "_decoder", "_quick", "_splitter", "_upstream", "failure", "frames", "opened")

    def __init__(self, decoder: StreamDecoder, upstream: Upstream | None = None) -> None:
        """`upstream`: the replica whose progress it counts."""
        self._upstream = upstream
        self._decoder = decoder
        self._decode = decoder.frame
        self._quick = decoder.quick
        self._splitter = FrameSplitter()
        self.frames = 0  # that the client gets
        self.opened = False  # True: something that a client would show came
        self.failure: Failure | None = None

    @property
    def usage(self) -> Usage:
        return self._decoder.usage

    def keep(self) -> None:
        """From now on `transcript` can tell what the client has."""
        self._decoder.keep()

    def transcript(self) -> Transcript:
        return self._decoder.transcript()

    @property
    def failed(self) -> bool:
        return self.failure is not None

    def feed(self, chunk: bytes) -> bytes:
        """The frames for the client in these bytes of the engine, as one piece. Nothing may be fed after a failure."""
        if self._upstream is not None:
            self._upstream.progress += 1
        if not self._splitter.pending and (shown := self._quick(chunk)) is not None:
            self.frames += 1
            return shown
        frames = []
        for frame in self._splitter.feed(chunk):
            decoded = self._decode(frame)
            if isinstance(decoded, Failure):
                self.failure = decoded
                break
            if decoded:
                frames.append(decoded)
                if not self.opened:
                    self.opened = not is_opening(decoded)
        self.frames += len(frames)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def end(self) -> Failure | None:
        """The engine's stream is over, one way or another: a Failure unless it had come to its proper end."""
        return self.failure or self._decoder.end()


def is_opening(frame: bytes) -> bool:
    """True for a frame after which a client still has nothing to show: a comment, a role, an empty text."""
    data = data_of(frame)
    if data is None:
        return True
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:  # [DONE], or what only the client can judge
        return False
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    return isinstance(choices, list) and not any(_says_something(choice) for choice in choices)


def _says_something(choice: Any) -> bool:
    if not isinstance(choice, dict) or choice.get("finish_reason") or choice.get("text"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


GATHER_S: Final = 0.002  # at 20 ms from token to token nobody sees it


class FlushRounds:
    """When streams are many, what comes for them within GATHER_S goes out in one round: waking the thread that writes
    to the clients costs as much as moving a token does. A piece that comes after a quiet moment goes out at once.
    """

    __slots__ = ("_last", "_loop", "_waiting")

    def __init__(self) -> None:
        self._last = 0.0  # when the last round was
        self._waiting: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def join(self, move: Callable[[], None]) -> None:
        """`move` is called now or within GATHER_S."""
        if self._waiting:
            self._waiting.append(move)
            return
        now = time.monotonic()
        if now - self._last > GATHER_S:
            self._last = now
            move()
            return
        self._waiting.append(move)
        loop = self._loop = self._loop or asyncio.get_running_loop()
        loop.call_later(GATHER_S, self._round)

    def _round(self) -> None:
        self._last = time.monotonic()
        moves, self._waiting = self._waiting, []
        for move in moves:
            move()


class StreamForwarder:
    """Moves a stream that has begun from the engine's connection to the client's, from callback to callback: no task
    is woken for a token. The task in `run` waits for the end, or for a client whose connection is full; until that has
    room again, nothing is read from the engine.
    """

    __slots__ = ("_blocked", "_connection", "_flight", "_over", "_relay", "_rounds", "_translate", "_wakes", "last")

    def __init__(
        self,
        relay: UpstreamStream,
        connection: Connection,
        flight: InflightRequest,
        rounds: FlushRounds,
        translate: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """`translate`: canonical frames to the client's; None: they are the same."""
        self._rounds = rounds
        self._relay = relay
        self._connection = connection
        self._flight = flight
        self._translate = translate
        self._blocked: Awaitable[None] | None = None
        self._over = False
        self._wakes = flight.loop.create_future()
        self.last = b""  # the canonical frames that go out with the end of an answer that ended well

    async def run(self, timeout_s: float) -> Failure | None:
        """Returns when the stream is over: a Failure unless it ended well. UpstreamFailureError for one that was cut,
        or where the engine was silent for `timeout_s`.
        """
        self._connection.listen(self._heard, timeout_s)
        try:
            self._move()
            return await self._until_over()
        finally:
            self._over = True

    async def _until_over(self) -> Failure | None:
        while True:
            await self._wakes
            self._wakes = self._flight.loop.create_future()
            if self._blocked is not None:
                await self._flight.drained(self._blocked)
                self._blocked = None
                self._connection.resume()
                self._move()
            elif self.last or self._relay.failed:
                return self._relay.failure
            elif self._connection.over():
                self.last = DONE  # some engines leave it out, some clients wait for it
                return self._relay.end()

    def end(self) -> Failure | None:
        return self._relay.end()

    def _heard(self) -> None:
        """The connection says that something came, or that nothing more will."""
        self._rounds.join(self._move)

    def _move(self) -> None:
        """Must not raise: other streams wait in the same round. Nor may it touch the connection when the stream is
        over: that may carry another request by then.
        """
        if self._over or self._blocked is not None or self._wakes.done():
            return
        try:
            self._move_what_came()
        except Exception as exc:  # noqa: BLE001 - raised again by the task, which is the boundary of the request
            self._wakes.set_exception(exc)
        else:
            if self._needs_the_task():
                self._wakes.set_result(None)

    def _move_what_came(self) -> None:
        if not self._relay.failed and (chunk := self._connection.take()):
            frames = self._relay.feed(chunk)
            if frames.endswith(DONE):
                self.last = frames
            elif frames and (shown := frames if self._translate is None else self._translate(frames)):
                self._pass_on(shown)

    def _needs_the_task(self) -> bool:
        return bool(self.last) or self._blocked is not None or self._relay.failed or self._connection.ended

    def _pass_on(self, shown: bytes) -> None:
        self._blocked = self._flight.push({"type": "http.response.body", "body": shown, "more_body": True})
        if self._blocked is not None:
            self._connection.hold()
