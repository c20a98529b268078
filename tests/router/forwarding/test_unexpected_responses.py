"""Engines that answer something else than was asked: another status, another API, impossible numbers."""

import json
from typing import Any

import httpx
import pytest

from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import LAST_CHUNK, Step, answer, chunk, json_answer, stream_head

MESSAGES = [{"role": "user", "content": "hello"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/responses": {"input": "hello"},
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": "hello"},
    "/generate": {"inputs": "hello"},
}
TEXT_PATHS = frozenset({"/v1/completions", "/generate"})  # the engine gets a completion
WHOLE_PATHS = frozenset({"/generate"})  # TGI streams at another path
DONE = b"data: [DONE]\n\n"
HEAD = {"id": "1", "created": 1, "model": "chat"}
TEXT_CHOICE = {"index": 0, "text": "good", "finish_reason": "stop"}
CHAT_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "good"}, "finish_reason": "stop"}


def ask(router_fixture: RouterFixture, path: str, *, stream: bool) -> str:
    body = {"model": "chat", **REQUESTS[path], "stream": stream}
    return httpx.post(router_fixture.url + path, json=body, timeout=10).text


def good(path: str, *, stream: bool, usage: Any = None) -> tuple[Step, ...]:
    """What the engine should answer."""
    is_text = path in TEXT_PATHS
    choice = TEXT_CHOICE if is_text else CHAT_CHOICE
    if not stream:
        kind = "text_completion" if is_text else "chat.completion"
        document = {**HEAD, "object": kind, "choices": [choice], "usage": usage}
        return (answer(json.dumps(document).encode()),)
    delta: dict[str, Any] = {"text": "good"} if is_text else {"delta": {"content": "good"}}
    end: dict[str, Any] = {"text": ""} if is_text else {"delta": {}}
    kind = "text_completion" if is_text else "chat.completion.chunk"
    frames = [
        {**HEAD, "object": kind, "choices": [{"index": 0, **delta, "finish_reason": None}]},
        {**HEAD, "object": kind, "choices": [{"index": 0, **end, "finish_reason": "stop"}]},
        {**HEAD, "object": kind, "choices": [], "usage": usage},
    ]
    return stream_of(*frames)


def stream_of(*frames: Any) -> tuple[Step, ...]:
    return (
        stream_head(),
        *(chunk(b"data: %s\n\n" % json.dumps(frame).encode()) for frame in frames),
        chunk(DONE),
        LAST_CHUNK,
    )


def check_fallback(router_fixture: RouterFixture, path: str, bad: tuple[Step, ...], *, stream: bool) -> None:
    """The first engine fails, and the client gets the answer of the second one."""
    router_fixture.first.answers(*bad)
    router_fixture.second.answers(*good(path, stream=stream))

    text = ask(router_fixture, path, stream=stream)

    assert "good" in text
    assert "wrong" not in text
    assert router_fixture.first.requests
    assert router_fixture.second.requests
    assert "Traceback" not in router_fixture.router.log


ODD: dict[str, bytes] = {
    "101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nwrong",
    "101 and nothing else": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "101 with a body": answer(b'{"wrong": 1}', status=101),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "200 without a body": answer(b""),
    "205": answer(b"", status=205),
    "300": answer(b"wrong", status=300),
    "301": answer(b"", status=301, headers="location: http://wrong.example/\r\n"),
    "304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "307": answer(b"", status=307, headers="location: /v1/chat/completions\r\n"),
    "402": json_answer({"error": "wrong"}, status=402),
    "599": answer(b"wrong", status=599),
    "999": answer(b"wrong", status=999),
    "000": answer(b"wrong").replace(b" 200 ", b" 000 "),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("stream", [True, False])
def test_an_odd_status_is_a_failure_of_the_engine(router_fixture: RouterFixture, name: str, *, stream: bool) -> None:
    check_fallback(router_fixture, "/v1/chat/completions", (ODD[name],), stream=stream)


@pytest.mark.parametrize("path", REQUESTS)
def test_a_stream_of_another_kind_is_a_failure_of_the_engine(router_fixture: RouterFixture, path: str) -> None:
    content = {"delta": {"content": "wrong"}} if path in TEXT_PATHS else {"text": "wrong"}
    frame = {**HEAD, "choices": [{"index": 0, **content, "finish_reason": "stop"}]}
    check_fallback(router_fixture, path, stream_of(frame), stream=path not in WHOLE_PATHS)


@pytest.mark.parametrize("path", REQUESTS)
def test_a_whole_response_of_another_kind_is_a_failure_of_the_engine(router_fixture: RouterFixture, path: str) -> None:
    other = CHAT_CHOICE if path in TEXT_PATHS else TEXT_CHOICE
    bad = json_answer({**HEAD, "choices": [other]}).replace(b"good", b"fail")
    check_fallback(router_fixture, path, (bad,), stream=False)


def tokens(router_fixture: RouterFixture) -> dict[str, float]:
    lines = httpx.get(f"{router_fixture.url}/metrics").text.splitlines()
    counted = [line.rpartition(" ") for line in lines if line.startswith("berth_tokens_total{")]
    return {name: float(value) for name, _, value in counted}


USAGES: list[Any] = [
    {"prompt_tokens": -5, "completion_tokens": -7, "total_tokens": -12},
    {"prompt_tokens": 3, "completion_tokens": 10**12, "total_tokens": 10**12},
    {"prompt_tokens": 10**30, "completion_tokens": 1},
    {"prompt_tokens": 2.5, "completion_tokens": "7", "total_tokens": True},
    {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": -1}},
    {"prompt_tokens": [1], "completion_tokens": {"a": 1}},
]


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("stream", [True, False])
def test_token_counters_never_go_down(router_fixture: RouterFixture, path: str, *, stream: bool) -> None:
    before = tokens(router_fixture)
    logged = router_fixture.router.log.count("implausible token counts ignored")
    stream = stream and path not in WHOLE_PATHS
    for usage in USAGES:
        for engine in (router_fixture.first, router_fixture.second):
            engine.answers(*good(path, stream=stream, usage=usage))
        text = ask(router_fixture, path, stream=stream)
        assert "good" in text
        after = tokens(router_fixture)
        assert all(before[name] <= after[name] < before[name] + 100 for name in before)
        before = after
    assert router_fixture.router.log.count("implausible token counts ignored") == logged + len(USAGES)
