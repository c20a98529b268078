"""Engines whose responses are endless or have no content: another engine responds, and no memory is retained."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httptools
import orjson
import pytest

from berth.apis.openai.chat import OpenaiChat
from berth.dialects.base import StreamDecoder
from berth.router.exchange.inflight import InflightRequest
from berth.router.exchange.outcomes import Outcome
from berth.router.exchange.request import RequestContext
from berth.router.forwarding.attempt import AttemptFailedError
from berth.router.forwarding.stream import StreamForwarder
from berth.router.upstream.connection import Connection, UpstreamFailureError
from tests.fakes.forwarding import Client, Forwarding
from tests.fakes.router import replica, route
from tests.fakes.upstream import (
    CLOSE,
    HANG,
    LAST_CHUNK,
    RESET,
    FakeUpstream,
    Step,
    chat_answer,
    chat_frame,
    chat_stream,
    chunk,
    stream_head,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90), pytest.mark.unmeasured]  # tracing allocations is slow

MIB = 1 << 20
FAILURES = {Outcome.CONNECT, Outcome.BROKEN, Outcome.TIMEOUT, Outcome.ENGINE}
ENDLESS = 1000  # times: of what a worker does not have to take
BIG = b"x" * 65536
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
ROLE = chat_frame(role=True)
FOUR_MIB_OF_A_TOKEN = chat_frame("y" * 4 * MIB)
EXTENSION = b"1;" + BIG + b"\r\n"


class House(Forwarding):
    """The model "chat" is served by `bad` first, then `good`; "solo" only by `bad`."""

    def __init__(self, run_dir: Path, bad: FakeUpstream, good: FakeUpstream) -> None:
        replicas = [replica("chat-bad", bad.url), replica("chat-good", good.url), replica("solo-bad", bad.url)]
        routes = [route("chat", ["chat-bad", "chat-good"], context=4096), route("solo", ["solo-bad"], context=4096)]
        super().__init__(run_dir, replicas, routes)
        self.bad, self.good = bad, good

    async def ask_chat(
        self, *, stream: bool = False, model: str = "chat", **fields: Any
    ) -> tuple[RequestContext, bytes]:
        """The request as it was in the end, and what the client has."""
        client = Client()
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": stream, **fields}
        return await self.ask(OpenaiChat(), orjson.dumps(body), client), client.body


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    with FakeUpstream() as bad, FakeUpstream() as good:
        house = House(tmp_path, bad, good)
        yield house
        house.upstreams.close()
        await asyncio.sleep(0)
        house.board.close()


@contextmanager
def no_more_memory_than(most_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most_bytes


WHOLE = {
    "a body": ((CHUNKED, *[chunk(BIG)] * ENDLESS), "the response is longer than 5 MiB"),
    "a body up to the end of the connection": ((HEAD + b"\r\n", *[BIG] * ENDLESS), "the response is longer than 5 MiB"),
    "a body as announced": (
        (HEAD + b"content-length: 999999999999\r\n\r\n", HANG),
        "the response is longer than 5 MiB",
    ),
    "an error's body": (
        (b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n", *[chunk(BIG)] * ENDLESS),
        "the response is longer than 4 MiB",
    ),
    "a status line": ((b"HTTP/1.1 200 ", *[BIG] * ENDLESS), "the head of the response is longer than 64 KiB"),
    "a header": ((HEAD + b"x: ", *[BIG] * ENDLESS), "the head of the response is longer than 64 KiB"),
    "headers": ((HEAD, *[b"x: y\r\n" * 10_000] * ENDLESS), "the head of the response is longer than 64 KiB"),
    "many headers, and an end": (
        (HEAD + b"".join(b"x%d: y\r\n" % i for i in range(300)) + b"content-length: 2\r\n\r\n{}",),
        "the response has more than 256 headers",
    ),
    "100 Continue": (
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,) * ENDLESS,
        "the head of the response is longer than 64 KiB",
    ),
    "an extension of a chunk": ((CHUNKED + b"1;", *[BIG] * ENDLESS), "64 KiB came, and nothing of the response"),
    "trailers": ((CHUNKED + b"0\r\n", *[b"x: y\r\n" * 10_000] * ENDLESS), "64 KiB came, and nothing of the response"),
}
STREAMS = {
    "a frame": (
        (stream_head(), chunk(b"data: "), *[chunk(BIG)] * ENDLESS),
        "the engine sent a frame of more than 8 MiB",
    ),
    "frames that say nothing": (
        (stream_head(), *[chunk(ROLE * 200)] * ENDLESS),
        "the engine sent 4 MiB of frames without content",
    ),
    "comments": (
        (stream_head(), *[chunk(b": ping\n\n" * 5000)] * ENDLESS),
        "the engine sent 4 MiB of frames without content",
    ),
}


@pytest.mark.parametrize(("steps", "reason"), WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("stream", [False, True])
async def test_endless_response_falls_back_to_the_next_engine(
    house: House, steps: tuple[Step, ...], reason: str, *, stream: bool
) -> None:
    house.bad.answers(*steps)
    house.good.answers(*(chat_stream("fine") if stream else (chat_answer("fine"),)))

    with no_more_memory_than(40 * MIB):
        ctx, body = await house.ask_chat(stream=stream)

    (failure,) = ctx.failures
    assert failure.failure.message.startswith(reason)
    assert failure.outcome in FAILURES
    assert ctx.status == 200
    assert b"fine" in body


@pytest.mark.parametrize(("steps", "reason"), STREAMS.values(), ids=STREAMS.keys())
async def test_stream_without_content_falls_back_to_the_next_engine(
    house: House, steps: tuple[Step, ...], reason: str
) -> None:
    house.bad.answers(*steps)
    house.good.answers(*chat_stream("fine"))

    with no_more_memory_than(60 * MIB):
        ctx, body = await house.ask_chat(stream=True)

    assert [(one.failure.message, one.outcome in FAILURES) for one in ctx.failures] == [(reason, True)]
    assert b"fine" in body


@pytest.mark.parametrize(
    ("steps", "tokens", "reason"),
    [
        pytest.param((chunk(b"data: "), *[chunk(BIG)] * ENDLESS), 8192, b"a frame of more than 8 MiB", id="a frame"),
        pytest.param([chunk(FOUR_MIB_OF_A_TOKEN)] * 4, 4096, b"the response is longer than 8 MiB", id="tokens"),
        pytest.param((b"1;", *[BIG] * ENDLESS), 4096, b"64 KiB came, and nothing of the response", id="an extension"),
    ],
)
async def test_endless_stream_ends_with_an_error(
    house: House, steps: tuple[Step, ...], tokens: int, reason: bytes
) -> None:
    house.bad.answers(stream_head(), chunk(ROLE + chat_frame("fine")), *steps)

    with no_more_memory_than(80 * MIB):
        ctx, body = await house.ask_chat(stream=True, model="solo", max_tokens=tokens)

    assert ctx.status == 200
    last = body[-1000:]
    assert b'data: {"error":' in last
    assert reason in last


async def test_endless_responses_open_the_circuit_breaker(house: House) -> None:
    house.bad.answers(*WHOLE["a header"][0])
    house.good.answers(chat_answer("fine"))

    for _ in range(6):
        assert b"fine" in (await house.ask_chat())[1]

    assert house.upstreams.marked_down() == ["chat-bad"]


LEFT = (
    Connection,
    httptools.HttpResponseParser,
    StreamDecoder,
    StreamForwarder,
    RequestContext,
    InflightRequest,
    AttemptFailedError,
    UpstreamFailureError,
)


@pytest.mark.parametrize(
    ("steps", "stream"),
    [
        pytest.param((chat_answer("fine"),), False, id="whole"),
        pytest.param((chat_answer("fine"), CLOSE), False, id="whole and closed"),
        pytest.param(chat_stream("fine", "fine"), True, id="a stream"),
        pytest.param((CLOSE,), False, id="closed"),
        pytest.param(WHOLE["a body"][0], False, id="a body without end"),
        pytest.param(WHOLE["a header"][0], False, id="a header without end"),
        pytest.param(STREAMS["a frame"][0], True, id="a frame without end"),
        pytest.param((stream_head(), chunk(ROLE), RESET), True, id="cut before it says something"),
        pytest.param((stream_head(), chunk(ROLE + chat_frame("a")), RESET), True, id="cut in the middle"),
        pytest.param((stream_head(), chunk(chat_frame("a")), chunk(b"data: 1\n\n"), HANG), True, id="not OpenAI's"),
        pytest.param((stream_head(), chunk(chat_frame("a")), LAST_CHUNK), True, id="not finished"),
        pytest.param((HANG,), True, id="silent"),
    ],
)
async def test_requests_leave_nothing_for_the_garbage_collector(
    house: House, steps: tuple[Step, ...], *, stream: bool
) -> None:
    house.bad.answers(*steps)
    gc.collect()
    before = [id(one) for one in gc.get_objects() if isinstance(one, LEFT)]
    gc.disable()
    try:
        await house.ask_chat(stream=stream, model="solo")
        house.upstreams.close()
        await asyncio.sleep(0.05)
        left = [type(one) for one in gc.get_objects() if isinstance(one, LEFT) and id(one) not in before]
    finally:
        gc.enable()
    assert left == []
