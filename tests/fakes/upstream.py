"""An HTTP server on a raw socket that does exactly what a test tells it, wrong things above all.

    with FakeUpstream() as engine:
        engine.answers(stream_head(), chunk(chat_frame("hi")), RESET)

An answer is a row of steps, carried out for each request: bytes are sent; RESET, CLOSE and HANG are what they say; a
threading.Event is waited for; a number is a pause in seconds.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

import orjson


class Act(Enum):
    RESET = auto()  # the connection is gone, as when the process was killed
    CLOSE = auto()  # the connection ends in order
    HANG = auto()  # nothing more, until the other side leaves


RESET, CLOSE, HANG = Act.RESET, Act.CLOSE, Act.HANG
Step = bytes | float | threading.Event | Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class FakeUpstream:
    """Runs in a thread of its own. `requests` are those that came, `left` is set when a HANG was left by the client."""

    def __init__(self, *, idle_s: float | None = None, socket_path: str | None = None, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.connections = 0  # accepted so far
        self.left = threading.Event()
        self.arrived = threading.Event()  # a request came
        self._idle_s = idle_s  # connections without a request for so long are closed
        self._once: list[tuple[Step, ...]] = []
        self._make: Callable[[Request], tuple[Step, ...]] | None = None
        self._steps: tuple[Step, ...] = (json_answer({"ok": True}),)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        if socket_path is None:
            self._listener = socket.create_server(("127.0.0.1", port))
            self.port: int = self._listener.getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"
        else:
            self._listener = socket.create_server(socket_path, family=socket.AF_UNIX)
            self.url = f"unix:{socket_path}"

    def answers(self, *steps: Step) -> None:
        """To every request from now on."""
        self._steps = steps
        self._make = None

    def answers_with(self, steps: Callable[[Request], tuple[Step, ...]]) -> None:
        """To every request from now on what `steps` makes of it."""
        self._make = steps

    def answers_once(self, *steps: Step) -> None:
        """To the next request that has no such answer yet; `answers` is for those after it."""
        self._once.append(steps)

    def forget(self) -> None:
        """As if no request had come and no answer had been set."""
        self.requests.clear()
        self._once.clear()
        self.left.clear()
        self.arrived.clear()
        self.answers(json_answer({"ok": True}))

    def kill(self) -> None:
        """Refuses connections and resets those there are, as the kernel does for a process that was killed."""
        asyncio.run_coroutine_threadsafe(self._kill(), self._loop).result(5)

    def drop_connections(self) -> None:
        """Resets those there are, and goes on listening."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(5)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(5)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(5)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._server = await asyncio.start_server(self._connection, sock=self._listener, limit=1 << 26)
        self._started.set()
        await self._stopping.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _kill(self) -> None:
        self._server.close()
        await self._drop()

    async def _drop(self) -> None:
        for writer in tuple(self._writers):
            reset(writer)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        if self._listener.family is not socket.AF_UNIX:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while request := await self._read(reader):
                self.requests.append(request)
                steps = self._make(request) if self._make else self._steps
                if self._once:
                    steps = self._once.pop(0)
                self.arrived.set()
                for step in steps:
                    await self._carry_out(step, reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        async with asyncio.timeout(self._idle_s):
            head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(method=method, path=path, headers=headers, body=body)

    async def _carry_out(self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
            case threading.Event():
                await asyncio.to_thread(step.wait, 30)
            case Act.RESET:
                reset(writer)
                raise ConnectionResetError
            case Act.CLOSE:
                raise ConnectionAbortedError
            case Act.HANG:
                await self._hang(reader)
            case _:
                await asyncio.sleep(step)

    async def _hang(self, reader: asyncio.StreamReader) -> None:
        try:
            await reader.read()
        finally:
            self.left.set()
        raise ConnectionAbortedError


def reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN; the other side may have closed it first."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def answer(body: bytes, *, status: int = 200, headers: str = "content-type: application/json\r\n") -> bytes:
    return f"HTTP/1.1 {status} X\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


def json_answer(document: Any, *, status: int = 200) -> bytes:
    return answer(orjson.dumps(document), status=status)


def error_answer(message: str, *, status: int) -> bytes:
    """As vLLM writes it."""
    error = {"message": message, "type": "SomeError", "param": None, "code": status}
    return json_answer({"error": error}, status=status)


def stream_head(content_type: str = "text/event-stream; charset=utf-8") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = chunk(b"")


def sse(document: Any) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def chat_frame(text: str = "", *, role: bool = False, finish: str | None = None, model: str = "chat") -> bytes:
    """One frame of a chat's stream, as vLLM writes it."""
    delta = {"role": "assistant", "content": ""} if role else {"content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return sse(
        {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
    )


def chat_stream(*texts: str) -> tuple[bytes, ...]:
    """The steps of a whole streamed chat answer, with usage."""
    usage = {"prompt_tokens": 3, "completion_tokens": len(texts), "total_tokens": 3 + len(texts)}
    last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "chat"}
    return (
        stream_head(),
        chunk(chat_frame(role=True)),
        *(chunk(chat_frame(text)) for text in texts),
        chunk(chat_frame(finish="stop")),
        chunk(sse({**last, "choices": [], "usage": usage})),
        chunk(b"data: [DONE]\n\n"),
        LAST_CHUNK,
    )


def chat_answer(text: str = "hello") -> bytes:
    """A whole chat answer."""
    message = {"role": "assistant", "content": text}
    return json_answer(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "chat",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
        }
    )
