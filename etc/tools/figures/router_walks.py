"""Walks through the router: `berth router` in this process, between a scripted client and a scripted engine.

The server is Granian, embedded in the event loop that the engine and the client use too, so that the order of events is
the same every time. The command is the only name of the router that is used: the application that it hands to Granian
is served.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server import mp
from granian.server.embed import Server

from etc.tools.figures.box import Box, run_command
from etc.tools.figures.engine import WORD, Engine, read_head
from etc.tools.figures.recorder import Recorder
from etc.tools.figures.walk import Walk, periods, usual
from tests.fakes.ports import free_port

REPEATS = 9
TOKENS = 25
IDLE_S = 1.0  # several periods of its background work
QUIET_S = 0.004  # enough for the work after a response, and longer than tokens are batched
PATIENCE_S = 10.0

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
OPENAI = ("/v1/chat/completions", CHAT, "")
ANTHROPIC = ("/v1/messages", {**CHAT, "max_tokens": 64}, "anthropic-version: 2023-06-01\r\n")
Api = tuple[str, dict[str, Any], str]
TRANSLATED: Mapping[str, Api] = {  # besides Anthropic's
    "responses": ("/v1/responses", {"model": "chat", "input": "Hello"}, ""),
    "ollama-chat": ("/api/chat", CHAT, ""),
    "ollama-generate": ("/api/generate", {"model": "chat", "prompt": "Hello"}, ""),
    "tgi": ("/generate_stream", {"model": "chat", "inputs": "Hello"}, ""),
}


def router_walks(box: Box, recorder: Recorder) -> dict[str, Walk]:
    """Walks by name."""
    walks: dict[str, Walk] = {}

    async def serve(load: Callable[[], Any]) -> None:
        async with asyncio.timeout(60), engine.listening(engine_port):
            walks.update(await _walk(load(), recorder, engine))

    class Granian:
        """Takes the application that the router made, and serves it here."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def serve(self, *, target_loader: Callable[[], Any], **_: object) -> None:
            uvloop.run(serve(target_loader))

    engine, engine_port = Engine(), free_port()
    replica = {"url": f"http://127.0.0.1:{engine_port}/v1", "dialect": "vllm", "model": "chat"}
    environ_models = json.dumps({"chat": {"engines": [replica]}})
    box.write_plan(environ_models)
    original, mp.MPServer = mp.MPServer, Granian  # type: ignore[misc,assignment] # as much of it as is used
    try:
        with recorder.installed():
            run_command(["router", "--run-dir", str(box.run_dir)], box.environ(environ_models))
    finally:
        mp.MPServer = original  # type: ignore[misc]
    return walks


async def _walk(app: Any, recorder: Recorder, engine: Engine) -> dict[str, Walk]:
    port = free_port()
    server = Server(
        app,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.error,
    )
    serving = asyncio.ensure_future(server.serve())
    client = await Client.connected(port)
    try:
        await client.whole(OPENAI)  # the connection to the engine is open now
        recorder.start()
        await asyncio.sleep(IDLE_S)
        idle = recorder.stop_idle()
        chat, tokens = await _stream(client, engine, recorder, OPENAI)
        messages, anthropic_tokens = await _stream(client, engine, recorder, ANTHROPIC)
        tokens_of = {f"{name}-token": await _tokens(client, engine, recorder, api) for name, api in TRANSLATED.items()}
        return {
            "idle-period": usual(periods(idle)),
            "chat": await _whole(client, recorder, OPENAI),
            "chat-stream": chat,
            "chat-token": tokens,
            "anthropic": await _whole(client, recorder, ANTHROPIC),
            "anthropic-stream": messages,
            "anthropic-token": anthropic_tokens,
            **tokens_of,
        }
    finally:
        client.close()
        server.stop()  # type: ignore[no-untyped-call]
        await serving


async def _whole(client: "Client", recorder: Recorder, api: Api) -> Walk:
    walks = []
    for _ in range(REPEATS):
        recorder.start()
        await client.whole(api)
        await asyncio.sleep(QUIET_S)
        walks.append(recorder.stop())
    return usual(walks)


async def _stream(client: "Client", engine: Engine, recorder: Recorder, api: Api) -> tuple[Walk, Walk]:
    """A stream of three tokens, and one token."""
    short = []
    for _ in range(REPEATS):
        recorder.start()
        await client.stream(api, engine, 3, lambda: None)
        short.append(recorder.stop())
    return usual(short), await _tokens(client, engine, recorder, api)


async def _tokens(client: "Client", engine: Engine, recorder: Recorder, api: Api) -> Walk:
    """One token in the middle of a long stream."""
    rows: list[Walk] = []
    recorder.start()
    await client.stream(api, engine, TOKENS, lambda: rows.append(recorder.take()))
    recorder.stop()
    return usual(rows[TOKENS // 2 :])


class Client:
    """One connection to the router."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, port: int) -> "Client":
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return cls(*await asyncio.open_connection("127.0.0.1", port))
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.01)

    async def whole(self, api: Api) -> None:
        """Sends a request and reads its response."""
        self._ask(api, stream=False)
        head = await read_head(self._reader)
        body = await self._reader.readexactly(int(head["content-length"]))
        if b'"error"' in body:
            raise RuntimeError(body.decode())

    async def stream(self, api: Api, engine: Engine, tokens: int, after_each: Callable[[], None]) -> None:
        """Requests a stream; the engine sends each token after the one before has arrived. The router may hold back
        everything that precedes the first one.
        """
        self._ask(api, stream=True)
        body = b""
        for number in range(1, tokens + 1):
            engine.next_token()
            if number == 1:
                await read_head(self._reader)
            while body.count(WORD.encode()) < number:
                body += await self._part()
            await asyncio.sleep(QUIET_S)
            after_each()
        engine.last_token()
        while await self._part():
            pass
        await asyncio.sleep(QUIET_S)

    def close(self) -> None:
        self._writer.close()

    def _ask(self, api: Api, *, stream: bool) -> None:
        path, document, headers = api
        body = json.dumps({**document, "stream": stream}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{headers}"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)

    async def _part(self) -> bytes:
        """The next chunk; empty for the last one."""
        size = int((await self._reader.readline()).strip(), 16)
        return (await self._reader.readexactly(size + 2))[:-2]
