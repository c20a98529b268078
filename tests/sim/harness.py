"""A simulated engine in a thread, and a client that sees every byte of its answers."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, Self

import uvloop

from berth.plan import DialectName, Task
from berth.sim.dialect import Setup
from berth.sim.engine import tokenizer
from berth.sim.options import Options, Reasoning
from berth.sim.server import Server, serving

FAST = {"ttft_s": 0.0, "itl_s": 0.0}
CHAT: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}
JSON_HEADERS = {"content-type": "application/json"}


def options(dialect: str = "vllm", *faults: str, **changes: Any) -> Options:
    """Fast by default, on a free port."""
    values: dict[str, Any] = {"port": 0, **FAST, **changes}
    values["task"] = Task(values.get("task", "generate"))
    values["reasoning"] = Reasoning(values.get("reasoning", "asked"))
    return Options(dialect=DialectName(dialect), faults=faults, **values)


def setup(dialect: str = "vllm", **changes: Any) -> Setup:
    made = options(dialect, **changes)
    return Setup(options=made, tokenizer=tokenizer(made))


@contextmanager
def running(dialect: str = "vllm", *faults: str, **changes: Any) -> Iterator[Server]:
    """The server runs in a thread of its own: read its ports and figures only."""
    started: Queue[tuple[Server, asyncio.AbstractEventLoop, asyncio.Event]] = Queue()

    async def serve() -> None:
        async with serving(options(dialect, *faults, **changes)) as server:
            over = asyncio.Event()
            started.put((server, asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    server, loop, over = started.get(timeout=10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """All that came, and how it ended."""

    raw: bytes
    end: str  # "closed", "reset" or "silent"
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""  # without transfer coding, as far as it came
    chunks: tuple[bytes, ...] = ()  # of a chunked body
    whole: bool = False  # the HTTP message ended as it should

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def frames(self) -> list[bytes]:
        return [frame for frame in self.body.split(b"\n\n") if frame]

    @property
    def text(self) -> str:
        """What the deltas of a chat stream say."""
        found = [json.loads(frame[6:]) for frame in self.frames if frame.startswith(b"data: {")]
        deltas = [choice["delta"] for chunk in found for choice in chunk.get("choices", [])]
        return "".join(delta.get("content") or "" for delta in deltas)


class Client:
    """One connection."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._head_only = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        self._head_only = method == "HEAD"
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: sim", f"content-length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in (JSON_HEADERS if headers is None else headers).items()]
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    def read(self, silence_s: float = 20.0) -> Reply:
        """One answer, or as much of it as comes before the end or a silence."""
        self.socket.settimeout(silence_s)
        raw, end = b"", "open"
        while end == "open":
            reply = parse(raw, "open")
            if reply.whole or (reply.status and self._head_only):
                return reply
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                end = "reset"
            except TimeoutError:
                end = "silent"
            else:
                raw += data
                end = end if data else "closed"
        return parse(raw, end)

    def reset(self) -> None:
        """Leaves without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def send_request(
    port: int, path: str = "/v1/chat/completions", body: Any = None, *, method: str = "POST", silence_s: float = 5.0
) -> Reply:
    """One request on a connection of its own."""
    with Client(port) as client:
        client.send(method, path, body)
        return client.read(silence_s)


def get(port: int, path: str) -> Reply:
    return send_request(port, path, method="GET")


def parse(raw: bytes, end: str) -> Reply:
    head, separator, rest = raw.partition(b"\r\n\r\n")
    if not separator:
        return Reply(raw=raw, end=end)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    status = int(first.split()[1])
    chunks: tuple[bytes, ...] = ()
    if headers.get("transfer-encoding") == "chunked":
        chunks, whole = dechunk(rest)
        body = b"".join(chunks)
    elif "content-length" in headers:
        length = int(headers["content-length"])
        body, whole = rest[:length], len(rest) >= length
    else:
        body, whole = rest, end == "closed"
    return Reply(
        raw=raw,
        end="closed" if end == "open" else end,
        status=status,
        headers=headers,
        body=body,
        chunks=chunks,
        whole=whole,
    )


def dechunk(data: bytes) -> tuple[tuple[bytes, ...], bool]:
    """The chunks, the last one perhaps cut, and whether the body has its end."""
    chunks: list[bytes] = []
    while data:
        size, separator, rest = data.partition(b"\r\n")
        if not separator:
            break
        length = int(size, 16)
        if length == 0:
            return tuple(chunks), rest == b"\r\n"
        chunks.append(rest[:length])
        data = rest[length + 2 :]
    return tuple(chunks), False
