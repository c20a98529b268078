"""Writes one response over HTTP/1.1, byte for byte as the engines do, with the effects of the faults."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import Protocol

from berth.sim.dialect import Response
from berth.sim.faults.active import NO_EFFECTS, Effects

_STATUSES = frozenset(HTTPStatus)
_STREAM_BYTES = 1_000_000  # more than any stream here


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool
    chunks: bool  # HTTP/1.1: a stream can be chunked
    query: str = ""


class Transport(Protocol):
    """The connection that the response is written to."""

    async def write(self, data: bytes) -> None:
        """Waits while the client does not read."""
        ...

    def close(self) -> None:
        """Sends what was written, then closes the connection."""
        ...

    def reset(self) -> None: ...


class ResponseWriter:
    """Writes the response to one request, with the effects of the faults."""

    def __init__(self, connection: Transport, request: Request, *, vary: bool) -> None:
        self.effects: Effects = NO_EFFECTS
        self.status = 0  # of the response, once it has begun
        self._connection = connection
        self._keep_alive = request.keep_alive
        self._chunks = request.chunks
        self._head_only = request.method == "HEAD"
        self._vary = vary
        self._joined: list[bytes] = []
        self._rest = b""

    @property
    def begun(self) -> bool:
        return self.status != 0

    async def send(self, response: Response) -> None:
        """A full response, with its length."""
        length = len(response.body) + self.effects.missing_bytes
        if self.effects.missing_bytes:
            self._keep_alive = False
        self._vary = self._vary and not response.early
        head = self._head(response.status, response.content_type, response.headers, length)
        await self._write(head if self._head_only else head + response.body)
        self._end()

    async def send_half(self, response: Response) -> None:
        """The first half of a full response, then closes the connection."""
        head = self._head(response.status, response.content_type, response.headers, len(response.body))
        await self._write(head + response.body[: len(response.body) // 2])
        self.close()

    async def start(self, content_type: str) -> None:
        """The head of a stream."""
        length = None
        if self.effects.missing_bytes:
            length = _STREAM_BYTES + self.effects.missing_bytes
        if length is not None or not self._chunks:
            self._chunks, self._keep_alive = False, False
        await self._write(self._head(200, content_type, (), length))

    async def frame(self, data: bytes) -> None:
        """One chunk. `join` and `split` move the borders."""
        if self.effects.join_frames:
            self._joined.append(data)
            if len(self._joined) < self.effects.join_frames:
                return
            data = self._take_joined()
        size = self.effects.split_bytes
        if not size:
            await self._chunk(data)
            return
        data = self._rest + data
        end = len(data) - len(data) % size
        self._rest = data[end:]
        for at in range(0, end, size):
            await self._chunk(data[at : at + size])
            await asyncio.sleep(0)  # uvloop joins what one turn of the loop writes

    async def finish(self) -> None:
        """The regular end of a stream."""
        await self.flush()
        if self._chunks:
            await self._write(b"0\r\n\r\n")
        self._end()

    async def flush(self) -> None:
        """Sends what `join` and `split` hold back, and gives the event loop time to hand it to the kernel."""
        data = self._rest + self._take_joined()
        self._rest = b""
        if data:
            await self._chunk(data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def half_chunk(self, data: bytes) -> None:
        """A chunk that announces all of `data` and has half of it, then closes the connection."""
        await self.flush()
        size = b"%x\r\n" % len(data) if self._chunks else b""
        await self._write(size + data[: len(data) // 2])
        self.close()

    async def half_character(self, data: bytes) -> None:
        """A chunk that ends after the first byte of a longer character, then closes the connection."""
        await self.flush()
        await self._chunk(data[: first_long_character(data) + 1])
        self.close()

    def close(self) -> None:
        self._connection.close()

    async def reset(self) -> None:
        await self.flush()
        self._connection.reset()

    async def _chunk(self, data: bytes) -> None:
        await self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunks else data)

    async def _write(self, data: bytes) -> None:
        if self.effects.drip_s is None:
            await self._connection.write(data)
            return
        for at in range(len(data)):
            await self._connection.write(data[at : at + 1])
            await asyncio.sleep(self.effects.drip_s)

    def _take_joined(self) -> bytes:
        data = b"".join(self._joined)
        self._joined.clear()
        return data

    def _head(
        self, status: int, content_type: str | None, extra: tuple[tuple[str, str], ...], length: int | None
    ) -> bytes:
        self.status = status
        phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
        lines = [f"HTTP/1.1 {status} {phrase}", f"date: {formatdate(time(), usegmt=True)}", "server: uvicorn"]
        if length is not None:
            lines.append(f"content-length: {length}")
        lines += [f"{name}: {value}" for name, value in extra]
        if content_type is not None:
            lines.append(f"content-type: {content_type}")
        if self._vary:
            lines.append("vary: Origin")
        if not self._keep_alive:
            lines.append("connection: close")
        if length is None and self._chunks:
            lines.append("transfer-encoding: chunked")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _end(self) -> None:
        if not self._keep_alive:
            self.close()


def first_long_character(data: bytes) -> int:
    """The position of the first character of several bytes; -1 if all are ASCII."""
    return next((at for at, byte in enumerate(data) if byte >= 0x80), -1)
