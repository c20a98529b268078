"""An engine that responds like vLLM, in its client's event loop; a stream advances one token at a time, on command."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

WORD = "lorem"  # occurs nowhere else in a response
_HEAD = {"id": "chatcmpl-0a1b2c3d4e5f", "created": 1_772_000_000, "model": "chat"}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_USAGE = {"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": None}


class Engine:
    """`next_token` sends one token of the stream, `last_token` ends it."""

    def __init__(self) -> None:
        self._steps: asyncio.Queue[bool] = asyncio.Queue()

    def next_token(self) -> None:
        self._steps.put_nowait(True)

    def last_token(self) -> None:
        self._steps.put_nowait(False)

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connection, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await read_head(reader):
                body = await reader.readexactly(int(head.get("content-length", "0")))
                if json.loads(body or b"{}").get("stream"):
                    await self._stream(writer, _frame if "/chat/" in head[""] else _text_frame)
                else:
                    writer.write(whole_response())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the router closed it
        finally:
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, frame: Callable[..., bytes]) -> None:
        writer.write(_STREAM_HEAD)
        if frame is _frame:
            writer.write(_chunk(_frame({"role": "assistant", "content": ""})))
        while await self._steps.get():
            writer.write(_chunk(frame({"content": WORD})))
        writer.write(_end(frame))


async def read_head(reader: asyncio.StreamReader) -> dict[str, str]:
    """The header fields of the next message, and under "" its first line; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return {}
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    return {"": first, **{name.strip().lower(): value.strip() for name, _, value in pairs}}


@cache
def whole_response() -> bytes:
    """Head and body, of one token."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": WORD,
        "refusal": None,
        "tool_calls": [],
        "reasoning": None,
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    body = json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@cache
def stream_parts() -> tuple[bytes, bytes, bytes, bytes]:
    """Of a streamed chat: the head, the first frame, the frame of a token, and what ends it."""
    first, word = _frame({"role": "assistant", "content": ""}), _frame({"content": WORD})
    return _STREAM_HEAD, _chunk(first), _chunk(word), _end(_frame)


def _end(frame: Callable[..., bytes]) -> bytes:
    usage = _event({**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
    return b"".join(
        (_chunk(frame({"content": ""}, finish="stop")), _chunk(usage), _chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n")
    )


def _frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    return _event({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]})


def _text_frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": delta["content"], "logprobs": None, "finish_reason": finish, "stop_reason": None}
    return _event({**_HEAD, "object": "text_completion", "choices": [choice]})


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
