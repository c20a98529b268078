"""An engine as a target: completions of token ids as streams over HTTP, with a time for each frame.

Everything is said explicitly: an engine's own defaults must not decide how much work it has.
"""

import asyncio
import json
import ssl
import time
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from berth.bench.window import Sample
from berth.bench.workload import Ask
from berth.plan import DialectName, Replica

_DONE = b"[DONE]"
_LONGEST_ERROR = 200
_LONGEST_BODY = 64 << 20
_CALL_TIMEOUT_S = 600.0  # an engine may compile for its first request of a kind


def completion(replica: Replica, ask: Ask) -> dict[str, Any]:
    """The body of a request."""
    body: dict[str, Any] = {
        "model": replica.served_name,
        "prompt": list(ask.prompt),
        "max_tokens": ask.tokens,
        "temperature": 0,
        "n": 1,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if replica.dialect is not DialectName.TRTLLM or ask.tokens > 1:
        body["min_tokens"] = ask.tokens
    return body


class EngineClient:
    """Keeps its connections. One replica, by TCP or a Unix socket; by TLS where it has a context for that."""

    def __init__(self, replica: Replica, key: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.replica = replica
        self._key = key
        self._tls = tls
        self._url = urlsplit(replica.url)
        self._free: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def ask(self, ask: Ask, sample: Sample) -> None:
        body = json.dumps(completion(self.replica, ask)).encode()
        try:
            connection = await self._send(body, "/v1/completions", sample)
        except (OSError, httptools.HttpParserError, ValueError) as error:
            sample.error = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
            return
        if connection.status != 200:
            text = bytes(connection.body[:_LONGEST_ERROR]).decode("utf-8", "replace")
            sample.error = f"status {connection.status}: {text}"
        elif not sample.error and not connection.done:
            sample.error = "the stream has no end"

    async def call(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON of a whole answer. OSError or ValueError where there is none."""
        data = json.dumps(body).encode()
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            connection = await self._send(data, path, None)
        if connection.status != 200:
            text = bytes(connection.body[:_LONGEST_ERROR]).decode("utf-8", "replace")
            raise ValueError(f"status {connection.status}: {text}")
        return json.loads(bytes(connection.body))

    def close(self) -> None:
        for connection in tuple(self._all):
            connection.close()

    async def _send(self, body: bytes, path: str, sample: Sample | None) -> "_Connection":
        connection = self._free.pop() if self._free else await self._connect()
        head = (
            f"POST {self.replica.path(path)} HTTP/1.1\r\nhost: {self._url.hostname or 'engine'}\r\n"
            f"content-type: application/json\r\nauthorization: Bearer {self._key or 'none'}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        try:
            await connection.exchange(head.encode() + body, sample)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._free.append(connection)
        else:
            connection.close()
        return connection

    async def _connect(self) -> "_Connection":
        loop, made = asyncio.get_running_loop(), _Connection(self._gone)
        if path := self.replica.socket_path:
            await loop.create_unix_connection(lambda: made, path)
        else:
            await loop.create_connection(lambda: made, self._url.hostname or "", self._url.port or 80, ssl=self._tls)
        self._all.add(made)
        return made

    def _gone(self, connection: "_Connection") -> None:
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)


class _Connection(asyncio.Protocol):
    """One exchange after the other."""

    def __init__(self, gone: Any) -> None:
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._over: asyncio.Future[None] | None = None
        self._sample: Sample | None = None
        self._rest = b""
        self.status = 0
        self.body = bytearray()
        self.done = False
        self.reusable = False

    async def exchange(self, request: bytes, sample: Sample | None) -> None:
        """Until the answer is complete. OSError, ValueError or HttpParserError."""
        self._sample, self._rest, self.body, self.done, self.reusable, self.status = (
            sample,
            b"",
            bytearray(),
            False,
            False,
            0,
        )
        self._parser = httptools.HttpResponseParser(self)
        self._over = asyncio.get_running_loop().create_future()
        if self._transport is None:
            raise ConnectionError("the engine closed the connection")
        self._transport.write(request)
        await self._over

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, ValueError) as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._gone(self)
        self._end(exc or ConnectionError("the connection ended within an answer"))

    # httptools

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code() if self._parser else 0

    def on_body(self, data: bytes) -> None:
        if self._sample is None or self.status != 200:
            self.body += data
            if len(self.body) > _LONGEST_BODY:
                raise ValueError("an answer of more than 64 MiB")
            return
        frames = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        self._rest = frames.pop()
        now = time.monotonic()  # the loop's own clock, without its rounding to a millisecond
        for frame in frames:
            if frame.startswith(b"data:"):
                self._frame(frame[5:].strip(), self._sample, now)

    def on_message_complete(self) -> None:
        self.reusable = bool(self._parser and self._parser.should_keep_alive())
        self._end(None)

    def _frame(self, data: bytes, sample: Sample, now: float) -> None:
        if data == _DONE:
            self.done = True
            return
        if b'"choices":[{' in data or b'"choices": [{' in data:
            sample.frames.append(now)
        if b'"usage":{' in data or b'"usage": {' in data:
            count_usage(json.loads(data)["usage"], sample)
        elif b'"error"' in data[:200] and b'"choices"' not in data:
            sample.error = data[:_LONGEST_ERROR].decode("utf-8", "replace")

    def _end(self, error: Exception | None) -> None:
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)


def count_usage(usage: dict[str, Any], sample: Sample) -> None:
    details = usage.get("prompt_tokens_details") or {}
    sample.prompt_tokens = int(usage.get("prompt_tokens") or 0)
    sample.tokens = int(usage.get("completion_tokens") or 0)
    sample.cached_tokens = int(details.get("cached_tokens") or 0)
