"""The client and the fake upstream against each other, over real sockets in one event loop."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from etc.tools.rivals import frames
from etc.tools.rivals.client import Client, request_to
from etc.tools.rivals.fake_upstream import Answers
from etc.tools.rivals.frames import Pace
from etc.tools.rivals.tally import Tally

pytestmark = pytest.mark.anyio
QUICK = Pace(tokens=5, first_ms=1, next_ms=1)


class Says(asyncio.Protocol):
    """Answers whatever comes with these bytes; ends the connection where it has none."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - the protocol's signature
        if self._data:
            self._transport.write(self._data)
        else:
            self._transport.close()


@asynccontextmanager
async def serving(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def ask(protocol: Callable[[], asyncio.Protocol], pace: Pace | None, times: int = 1) -> Tally:
    tally = Tally()
    async with serving(protocol) as url:
        client = Client(url)
        for _ in range(times):
            await client.ask(request_to(url, pace=pace, key="k"), tally, tokens=pace.tokens if pace else 0)
        assert not client.waiting
        client.close()
    return tally


async def test_whole_answers_follow_each_other_on_one_connection() -> None:
    tally = await ask(Answers, None, times=3)
    assert (tally.requests, len(tally.whole_s), tally.failures) == (3, 3, {})


async def test_the_tokens_of_a_stream_are_counted_and_timed() -> None:
    tally = await ask(Answers, QUICK, times=2)
    assert (tally.requests, tally.tokens, tally.failures) == (2, 10, {})
    assert (len(tally.first_s), len(tally.gap_s)) == (2, 8)


async def test_a_stream_that_lacks_a_token_is_a_failure() -> None:
    tokens = b"".join(frames.TOKENS[:4])
    answer = frames.START + tokens + frames.DONE + frames.END
    tally = await ask(lambda: Says(answer), QUICK)
    assert (tally.requests, tally.failures) == (0, {"an answer that is not whole": 1})


async def test_a_stream_without_its_end_is_a_failure() -> None:
    answer = frames.START + b"".join(frames.TOKENS[:5]) + frames.END
    assert (await ask(lambda: Says(answer), QUICK)).failures == {"an answer that is not whole": 1}


async def test_an_error_status_is_a_failure() -> None:
    refusal = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
    assert (await ask(lambda: Says(refusal), None)).failures == {"status 429": 1}


async def test_a_connection_that_ends_is_a_failure_and_the_next_request_has_another() -> None:
    tally = await ask(lambda: Says(b""), None, times=2)
    assert tally.failures == {"ConnectionError: the connection ended within an answer": 2}


async def test_what_is_no_answer_is_a_failure() -> None:
    tally = await ask(lambda: Says(b"HTTP/1.1 200 OK\r\n\r\n"), None)
    assert next(iter(tally.failures)).startswith("ValueError: an answer without a length")


def test_a_request_carries_its_key_and_its_length() -> None:
    head, _, body = request_to("http://127.0.0.1:80", pace=QUICK, key="secret").partition(b"\r\n\r\n")
    assert b"\r\nauthorization: Bearer secret\r\n" in head + b"\r\n"
    assert head.endswith(b"content-length: %d" % len(body))
    assert json.loads(body)["stream"] is True
