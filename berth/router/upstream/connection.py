"""The data plane's HTTP/1.1 client, asyncio and httptools: one connection and the exchange on it.

There are no redirects, cookies, compression or proxies here: an engine needs none of them, and each would cost CPU
time per request.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Final, cast

import httptools

_BUFFERED_BYTES: Final = 1 << 20  # of a response that the client does not read: then the engine has to wait
# Status line and headers, and those of interim responses; also how much may come after it without a byte of the body
# (extensions of chunks, trailers). Real heads take less than 1 KiB; proxies allow 8 to 32 KiB.
_HEAD_BYTES: Final = 64 << 10
_MOST_HEADERS: Final = 256
_SWITCHING_PROTOCOLS: Final = 101  # an answer to `Upgrade`, which is never sent


class UpstreamFailureError(Exception):
    """The engine could not be reached, or did not complete its response."""


class ConnectFailedError(UpstreamFailureError):
    """No connection: nothing was sent."""


class BrokenResponseError(UpstreamFailureError):
    """The connection ended before the response did, or what came is not HTTP."""


class ResponseTimeoutError(UpstreamFailureError):
    """Nothing came for too long."""


class PreemptedError(UpstreamFailureError):
    """Berth gave the exchange up: the engine makes room for another model."""


class ResponseTooLongError(UpstreamFailureError):
    """The engine sent more than a response may have."""


class Connection:
    """A connection to an engine, and the response on it.

    `send` begins an exchange, and `status` is set once the head of the response has come; `read` returns what has come
    of the body. With `listen` the rest of the body is handed to a callback, without a task that is woken for each
    piece.
    """

    __slots__ = (
        "_chunks",
        "_deadline",
        "_heard",
        "_interim",
        "_length_known",
        "_listener",
        "_look_at",
        "_looked",
        "_lost",
        "_most",
        "_parser",
        "_paused",
        "_reusable",
        "_taken",
        "_timeout_s",
        "_timer",
        "_transport",
        "_waiter",
        "asked_bytes",
        "complete",
        "error",
        "headers",
        "idle_since",
        "loop",
        "status",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: Callable[["Connection"], None]) -> None:
        """`lost` is called when the connection has ended."""
        self._lost = lost
        self.loop = loop
        # None: the connection has ended. The parser knows it, and both would wait for the garbage collector.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._timeout_s = 0.0  # while somebody listens: how long the engine may be silent
        self._listener: Callable[[], None] | None = None
        self.error: UpstreamFailureError | None = None  # why the body will not be whole
        self._paused = False
        self.idle_since = 0.0
        self._begin()

    def _begin(self) -> None:
        self.status = 0  # 0: the head has not come yet
        self.headers: dict[bytes, bytes] = {}  # names in lower case
        self.asked_bytes = 0
        self._chunks: list[bytes] = []
        self._heard = 0  # bytes of the connection: head, body, and what is between its chunks
        self._taken = 0  # how many had come when the last of the body was taken
        self._looked = 0  # and at the last `_look`
        self._look_at = _HEAD_BYTES  # when the next one is due
        self._most = sys.maxsize  # `allow` says how many may come
        self._interim = False
        self._length_known = False
        self.complete = False  # the whole body has come
        self._reusable = False

    @property
    def responded(self) -> bool:
        """At least one byte of a response came."""
        return self._heard > 0

    @property
    def usable(self) -> bool:
        """The connection can carry another request."""
        return self._reusable and self.error is None and not self._chunks

    def send(self, head: bytes, body: bytes) -> None:
        """Begins an exchange. BrokenResponseError if the connection has ended."""
        self._begin()
        self.asked_bytes = len(body)
        transport = self._transport
        if transport is None or transport.is_closing():
            raise BrokenResponseError("the connection is closed")
        if len(body) < 16384:  # one system call, and the copy is cheap
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    def change(self, deadline: float) -> "asyncio.Future[None]":
        """Done when something has come, or the connection has ended; ResponseTimeoutError when neither has. One at a
        time.
        """
        self._deadline = deadline
        self._arm(deadline)
        self._waiter = self.loop.create_future()
        return self._waiter

    def allow(self, most_bytes: int) -> None:
        """How long the body may get, more or less. What comes or is announced beyond that is a ResponseTooLongError for
        the reader.
        """
        self._most = most_bytes + _HEAD_BYTES
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > most_bytes:
            self._give_up(self._too_long())

    async def read(self, timeout_s: float) -> bytes:
        """What has come of the body, at least one byte; b"" at its end. One reader at a time, and no listener."""
        self._listener = None
        if not self._chunks:
            deadline = self.loop.time() + timeout_s
            while not self._chunks:
                if self.complete:
                    return b""
                if self.error is not None:
                    raise self.error
                await self.change(deadline)
        return self.take()

    async def read_all(self, timeout_s: float, most_bytes: int) -> bytes:
        """The whole body, or what is left of it; ResponseTooLongError where it has more than `most_bytes`."""
        self.allow(most_bytes)
        deadline = self.loop.time() + timeout_s
        parts = []
        while part := await self.read(deadline - self.loop.time()):
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def listen(self, heard: Callable[[], None], timeout_s: float) -> None:
        """From now on `heard` is called when something can be taken, and when the body is over or broken. It is not
        called for what is there already.
        """
        self._listener = heard
        self._timeout_s = timeout_s
        self._deadline = self.loop.time() + timeout_s
        self._arm(self._deadline)

    def take(self) -> bytes:
        """What has come of the body and was not taken yet; may be nothing."""
        if not self._chunks:
            return b""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._taken = self._heard
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return data

    def over(self) -> bool:
        """Nothing more will come. UpstreamFailureError if the body is not whole."""
        if self.error is not None and not self.complete:
            raise self.error
        return self.complete and not self._chunks

    def hold(self) -> None:
        """Nothing is read from the engine until `resume`: the client takes nothing."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        self._deadline = self.loop.time() + self._timeout_s
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Gives the connection up at once: an engine takes that as the order to stop."""
        self._listener = self._waiter = None
        self.error = None  # one that was raised knows the frames that it came through, and they know the connection
        self._give_up(BrokenResponseError("the connection was given up"))

    def preempt(self) -> None:
        """Gives an exchange up that has not ended. What has come of it can still be taken."""
        if not self.complete and self.error is None:
            self._give_up(PreemptedError("it made room for another model"))
            self._wake()

    def _give_up(self, error: UpstreamFailureError) -> None:
        self.error = self.error or error
        self._disarm()
        self._parser = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def rest(self) -> None:
        """The exchange is over and the connection waits for the next one. Its timer may expire: no one listens."""
        self._listener = self._waiter = None
        self.idle_since = self.loop.time()

    # waiting: at most one reader, and one timer that is moved on, because most waits end long before it

    def _arm(self, deadline: float) -> None:
        if self._timer is None or self._timer.when() > deadline:
            self._disarm()
            self._timer = self.loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        waits = self._waiter is not None and not self._waiter.done()
        if not waits and self._listener is None:
            return
        if self._paused and not waits:  # not the engine's silence: its time begins again
            self._deadline = self.loop.time() + self._timeout_s
        if self.loop.time() < self._deadline - 0.001:
            self._timer = self.loop.call_at(self._deadline, self._expire)
            return
        error = ResponseTimeoutError("no response in time")
        if self._waiter is not None and waits:
            self._waiter.set_exception(error)
        elif self._listener is not None:
            self.error = self.error or error
            self._listener()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._listener is not None:
            self._deadline = self.loop.time() + self._timeout_s
            self._listener()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Protocol, which is no base of it: no extension type can have one that is none

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def eof_received(self) -> None:
        """The transport closes itself."""

    def pause_writing(self) -> None:
        """Requests are written as a whole."""

    resume_writing = pause_writing

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        self._heard += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._give_up(BrokenResponseError("not HTTP: the engine switched to another protocol"))
        except httptools.HttpParserError as exc:
            # what comes after a complete response only spoils the connection
            self._give_up(BrokenResponseError("the connection was given up" if self.complete else f"not HTTP: {exc}"))
        else:
            if self._heard > self._look_at:
                self._look()
        self._wake()

    def _look(self) -> None:
        """Now and then, not for each token: has too much come, or more than is taken?"""
        if not self.status:
            self._give_up(ResponseTooLongError(f"the head of the response is longer than {_HEAD_BYTES >> 10} KiB"))
        elif not self._chunks and self._taken <= self._looked:
            self._give_up(ResponseTooLongError(f"{_HEAD_BYTES >> 10} KiB came, and nothing of the response"))
        elif self._heard > self._most:
            self._give_up(self._too_long())
        elif self._heard - self._taken > _BUFFERED_BYTES:
            self.hold()
        self._looked = self._heard
        self._look_at = self._heard + _HEAD_BYTES

    def _too_long(self) -> ResponseTooLongError:
        most_bytes = self._most - _HEAD_BYTES
        return ResponseTooLongError(
            f"the response is longer than {most_bytes >> 20} MiB, which is more than the request can need"
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._parser = None
        self._disarm()
        self._reusable = False
        if self.status and not self._length_known and exc is None and self.error is None:
            self.complete = True  # the end of the connection is the end of such a response
        elif not self.complete:
            cause = f"the connection broke: {exc}" if exc else "the engine closed the connection"
            moment = "in the middle of the response" if self.responded else "before it responded"
            self.error = self.error or BrokenResponseError(f"{cause} {moment}")
        self._lost(self)
        self._wake()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            self._reusable = False  # a response without a request

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # else it is a trailer, or of a response without a request
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None  # noqa: S101 - it is what calls
        status = self._parser.get_status_code()
        self._interim = status < 200
        if self.complete:
            return
        if status < 100 or status == _SWITCHING_PROTOCOLS:
            self.error = BrokenResponseError(f"not HTTP: the engine returned {status:03}")
            return
        if self._interim:  # 100 Continue: the response is still to come
            self.headers.clear()
            return
        if len(self.headers) > _MOST_HEADERS:
            self.error = ResponseTooLongError(f"the response has more than {_MOST_HEADERS} headers")
            return
        known = b"content-length" in self.headers or status in {204, 304}
        self._length_known = known or b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        self.status = status

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._chunks.append(data)

    def on_message_complete(self) -> None:
        if not self._interim and not self.complete:
            assert self._parser is not None  # noqa: S101 - it is what calls
            self.complete = True
            self._reusable = self._parser.should_keep_alive()
