"""One client of the benchmark: a keep-alive connection that asks one question after the other."""

import asyncio
import json
import time
from typing import cast
from urllib.parse import urlsplit

from etc.tools.rivals.answer import Answer
from etc.tools.rivals.apis import CHAT, Api
from etc.tools.rivals.frames import Pace
from etc.tools.rivals.tally import Tally

_AFTER_FAILURE_S = 0.05


def request_to(url: str, *, pace: Pace | None, key: str, api: Api = CHAT) -> bytes:
    """The bytes of a POST: for a stream at that pace, or for a whole short answer."""
    content = "Hello" if pace is None else str(pace)
    body = api.body(content, 8 if pace is None else pace.tokens, stream=pace is not None)
    data = json.dumps(body).encode()
    head = (
        f"POST {api.path} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"content-type: application/json\r\nauthorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Client(asyncio.Protocol):
    def __init__(self, url: str, api: Api = CHAT) -> None:
        self._api = api
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        self._transport: asyncio.Transport | None = None
        self._finished: asyncio.Future[None] | None = None
        self._tally = Tally()
        self._answer = Answer(api)
        self._began = 0.0
        self._last = 0.0  # when a token came last; 0: none has come
        self._ended = 0.0

    @property
    def waiting(self) -> bool:
        return self._finished is not None

    async def ask(self, request: bytes, tally: Tally, *, tokens: int) -> None:
        """Until the answer is complete, or has failed; `tokens` are expected."""
        self._tally, self._answer, self._last = tally, Answer(self._api), 0.0
        self._finished = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        try:
            if self._transport is None:
                await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
            cast("asyncio.Transport", self._transport).write(request)
            await self._finished
        except (OSError, ValueError) as exc:
            tally.failures[f"{type(exc).__name__}: {exc}"] += 1
            self.close()
            await asyncio.sleep(_AFTER_FAILURE_S)
        else:
            self._judge(tokens)
        self._finished = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _judge(self, tokens: int) -> None:
        answer, tally = self._answer, self._tally
        if answer.status != 200:
            tally.failures[f"status {answer.status}"] += 1
        elif answer.tokens != tokens or (tokens and not answer.done):
            tally.failures["an answer that is not whole"] += 1
        else:
            tally.requests += 1
            tally.whole_s.append(self._ended - self._began)
        if answer.closes:
            self.close()

    def _count(self, tokens: int) -> None:
        now = time.perf_counter()
        self._tally.tokens += tokens
        if self._last:
            self._tally.gap_s.append(now - self._last)
        else:
            self._tally.first_s.append(now - self._began)
        if tokens > 1:  # they came together
            self._tally.gap_s.extend([0.0] * (tokens - 1))
        self._last = now

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            tokens = self._answer.feed(data)
        except ValueError as exc:
            self._end(exc)
            return
        if tokens:
            self._count(tokens)
        if self._answer.complete:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(ConnectionError("the connection ended within an answer" if exc is None else str(exc)))

    def _end(self, problem: Exception | None) -> None:
        self._ended = time.perf_counter()
        if self._finished is None or self._finished.done():
            return
        if problem is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(problem)
