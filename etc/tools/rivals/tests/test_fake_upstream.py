import asyncio
import json

import pytest

from etc.tools.rivals import frames
from etc.tools.rivals.fake_upstream import Answers, is_whole
from etc.tools.rivals.frames import Pace
from etc.tools.rivals.tests.test_client import serving


@pytest.mark.parametrize(
    ("head", "body", "whole"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 3", b"ab", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 3", b"abc", True),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked", b"3\r\nabc\r\n", False),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nhost: h", b"", True),
    ],
)
def test_a_request_is_answered_when_it_is_whole(head: bytes, body: bytes, whole: bool) -> None:
    assert is_whole(head, body) is whole


async def said(*parts: bytes, until: bytes) -> bytes:
    """What it says to these pieces of a request."""
    async with serving(Answers) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.01)
        answer = await reader.readuntil(until)
        writer.close()
        await writer.wait_closed()
    return answer


def post(body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(data) + data


@pytest.mark.anyio
async def test_a_request_may_come_in_pieces() -> None:
    request = post({"stream": False})
    assert (
        await said(request[:30], request[30:-2], request[-2:], until=b'"completion_tokens":8}}') == frames.SHORT_ANSWER
    )


@pytest.mark.anyio
async def test_a_stream_has_its_usage_only_where_it_is_asked_for() -> None:
    body = {"stream": True, "messages": [{"content": str(Pace(tokens=3, first_ms=1, next_ms=1))}]}
    plain = await said(post(body), until=frames.END)
    usage = await said(post({**body, "stream_options": {"include_usage": True}}), until=frames.END)
    expected = frames.START + frames.ROLE + b"".join(frames.TOKENS[:3]) + frames.FINISH
    assert plain == expected + frames.DONE + frames.END
    assert usage == expected + frames.USAGE + frames.DONE + frames.END


@pytest.mark.anyio
async def test_routers_find_a_model_and_a_healthy_engine() -> None:
    models = await said(b"GET /v1/models HTTP/1.1\r\n\r\n", until=b"}]}")
    assert json.loads(models.partition(b"\r\n\r\n")[2])["data"][0]["id"] == frames.MODEL
    assert (await said(b"GET /health HTTP/1.1\r\n\r\n", until=b"}")).startswith(b"HTTP/1.1 200")
