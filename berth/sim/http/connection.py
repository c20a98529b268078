"""HTTP/1.1 on a bare socket: faults choose every byte, chunk border and reset of a response."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import unquote_to_bytes

import httptools

from berth.sim.dialect import Response
from berth.sim.http.response_writer import Request, ResponseWriter

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST
_BAD_REQUEST = Response(status=400, body=b"Invalid HTTP request received.", content_type="text/plain; charset=utf-8")

Handler = Callable[[Request, ResponseWriter], Awaitable[None]]
Spawn = Callable[..., asyncio.Task[None]]


class Connections:
    """The open connections."""

    def __init__(self) -> None:
        self.all: set[Connection] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def add(self, connection: "Connection") -> None:
        self.all.add(connection)
        self._all_closed.clear()

    def discard(self, connection: "Connection") -> None:
        self.all.discard(connection)
        if not self.all:
            self._all_closed.set()

    def close_idle(self) -> None:
        for connection in list(self.all):
            if not connection.busy:
                connection.close()

    def reset(self) -> None:
        for connection in list(self.all):
            connection.reset()

    async def close(self, timeout_s: float) -> None:
        """Closes all when their data is sent. Resets those whose client does not read."""
        for connection in list(self.all):
            connection.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._all_closed.wait()
        except TimeoutError:
            self.reset()
            await self._all_closed.wait()


class Connection(asyncio.Protocol):
    """One client's connection. Handles requests one after another. A disconnect cancels the request."""

    def __init__(
        self, handler: Handler, spawn: Spawn, *, connections: Connections, keep_alive_s: float, vary: bool
    ) -> None:
        self._handler = handler
        self._spawn = spawn
        self._open = connections
        self._keep_alive_s = keep_alive_s
        self._vary = vary
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closing = False
        self._new_request()

    @property
    def busy(self) -> bool:
        return self._task is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape only
        self._open.add(self)
        self._start_idle_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._open.discard(self)
        self._writable.set()
        self._stop_idle_timer()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._stop_idle_timer()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            bad = Request(method="?", path="", headers={}, body=b"", keep_alive=False, chunks=True)
            self._task = self._spawn(ResponseWriter(self, bad, vary=False).send(_BAD_REQUEST))

    async def write(self, data: bytes) -> None:
        if not self._closing:
            self._transport.write(data)
            await self._writable.wait()

    def close(self) -> None:
        self._closing = True
        self._transport.close()

    def reset(self) -> None:
        self._closing = True
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    # what httptools calls

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        url, _, query = self._url.partition(b"?")
        path = unquote_to_bytes(url).decode("utf-8", "replace")
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            path=path,
            headers=self._headers,
            body=b"".join(self._body),
            keep_alive=self._parser.should_keep_alive(),
            chunks=self._parser.get_http_version() == "1.1",
            query=query.decode("latin-1"),
        )
        self._new_request()
        self._queue.append(request)
        if self._task is None:
            self._task = self._spawn(self._handle_queue())

    def _new_request(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    async def _handle_queue(self) -> None:
        try:
            while self._queue and not self._closing:
                request = self._queue.popleft()
                await self._handler(request, ResponseWriter(self, request, vary=self._vary))
        finally:
            self._task = None
        self._start_idle_timer()

    def _start_idle_timer(self) -> None:
        if not self._closing:
            self._idle_timer = asyncio.get_running_loop().call_later(self._keep_alive_s, self.close)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
