"""What was captured can be replayed, for every client API, whole and streamed, with tool calls:

1. the captured request, sent again, gets the captured response from the simulated engine;
2. the captured response of the engine, translated again, is the captured response to the client.

The same are all bytes but those that are new with every request: the ids in `IDS`, the times in `TIMES`. Long base64
(pictures, vectors) cannot be replayed: a capture has its digest.
"""

import re
from typing import Any, Final

import pytest

from berth.ipc.capture import Exchange, Message
from berth.plan import DialectName, Task
from tests.fakes.upstream import FakeUpstream, answer, chunk, stream_head
from tests.router.exchange.test_captures import Box, box_of, capture
from tests.sim.harness import running

pytestmark = pytest.mark.anyio

IDS: Final = re.compile(
    r"\b(?:(?:chatcmpl|cmpl|embd|msg|resp|rs|fc|ctc|call|toolu|chatcmpl-tool)[-_])[0-9A-Za-z_-]{8,}|\b[0-9a-f]{32}\b"
)
TIMES: Final = re.compile(
    r'"(created|created_at|completed_at|total_duration|load_duration|prompt_eval_duration|eval_duration)":'
    r'(?:"[^"]*"|[0-9.]+)'
)
SCHEMA: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Final = {"name": "weather", "description": "of a city", "parameters": SCHEMA}
TOOLS: Final = [{"type": "function", "function": WEATHER}]
CHAT: Final[dict[str, Any]] = {"model": "chat", "messages": [{"role": "user", "content": "Tell me of Zürich ☂"}]}
INPUT: Final[dict[str, Any]] = {"model": "chat", "input": "Tell me of Zürich ☂", "max_output_tokens": 16}
SHORT: Final[dict[str, Any]] = {**CHAT, "max_tokens": 16}
REQUESTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", {**SHORT, "stream": False}),
    "chat-logprobs": ("/v1/chat/completions", {**SHORT, "logprobs": True, "top_logprobs": 2, "n": 2}),
    "chat-tools": ("/v1/chat/completions", {**SHORT, "tools": TOOLS, "tool_choice": "required"}),
    "completions": ("/v1/completions", {"model": "chat", "prompt": "Once", "max_tokens": 16}),
    "responses": ("/v1/responses", INPUT),
    "responses-tools": (
        "/v1/responses",
        {**INPUT, "tools": [{"type": "function", **WEATHER}], "tool_choice": "required"},
    ),
    "messages": ("/v1/messages", SHORT),
    "messages-tools": (
        "/v1/messages",
        {**SHORT, "tools": [{"name": "weather", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}},
    ),
    "ollama-chat": ("/api/chat", {**CHAT, "options": {"num_predict": 16}}),
    "ollama-tools": ("/api/chat", {**CHAT, "tools": TOOLS, "options": {"num_predict": 64}}),
    "ollama-generate": ("/api/generate", {"model": "chat", "prompt": "Once", "options": {"num_predict": 16}}),
}
VECTORS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "embeddings": ("/v1/embeddings", {"model": "chat", "input": ["Zürich", "Basel"]}),
    "ollama-embed": ("/api/embed", {"model": "chat", "input": ["Zürich", "Basel"]}),
}


def known(text: str) -> str:
    """Without what is new with every request: an id is replaced by its number in the order of the text, a time by 0."""
    ids: dict[str, int] = {}
    numbered = IDS.sub(lambda found: f"id-{ids.setdefault(found[0], len(ids))}", text)
    return TIMES.sub(r'"\1":0', numbered)


async def captured(box: Box, path: str, body: object) -> Exchange:
    """A request and its response, of which not a byte is missing."""
    box.worker.captures.current = capture()
    got = await box.ask(path, body)
    found = await box.captured()
    assert found.response is not None
    assert (got.status, found.response.body) == (200, got.body.decode())
    assert found.response.size == len(got.body)
    return found


def assert_same(new: Exchange, old: Exchange) -> None:
    assert [known(one.request.body) for one in new.attempts] == [known(one.request.body) for one in old.attempts]
    assert said(new) == said(old)


def said(exchange: Exchange) -> str:
    """To the client."""
    return known(exchange.response.body if exchange.response else "")


def again(engine: FakeUpstream, response: Message) -> None:
    """The engine responds as it did."""
    headers = dict(response.headers)
    body = response.body.encode()
    if headers["content-type"].startswith("text/event-stream"):
        engine.answers(stream_head(headers["content-type"]), chunk(body), chunk(b""))
    else:
        engine.answers(answer(body, status=int(response.line)))


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", [DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM])
async def test_a_replay_gives_the_same_bytes(run_dir: str, dialect: DialectName, *, streams: bool) -> None:
    requests = {name: (path, {**body, "stream": streams}) for name, (path, body) in REQUESTS.items()}
    if dialect is DialectName.TRTLLM:  # it cannot be forced to call a tool
        for _, body in requests.values():
            body.pop("tool_choice", None)

    found = await replayed(run_dir, dialect, Task.GENERATE, requests)

    called = {name for name, one in found.items() if "weather" in said(one)}
    assert called == {name for name in found if name.endswith("-tools")}


@pytest.mark.parametrize("dialect", [DialectName.VLLM, DialectName.SGLANG])
async def test_a_replay_gives_the_same_vectors(run_dir: str, dialect: DialectName) -> None:
    await replayed(run_dir, dialect, Task.EMBED, VECTORS)


async def replayed(
    run_dir: str, dialect: DialectName, task: Task, requests: dict[str, tuple[str, dict[str, Any]]]
) -> dict[str, Exchange]:
    """The exchanges by their names, after both replays."""
    found: dict[str, Exchange] = {}
    with running(dialect, task=task, names=("chat",)) as sim, FakeUpstream() as first, FakeUpstream() as second:
        url = f"http://127.0.0.1:{sim.port}"
        async with box_of(run_dir, first, second, url=url, dialect=dialect, task=task) as box:
            for name, (path, body) in requests.items():
                found[name] = await captured(box, path, body)
                assert_same(await captured(box, path, found[name].request.body.encode()), found[name])
        async with box_of(run_dir, first, second, dialect=dialect, task=task) as box:
            for name, (path, _) in requests.items():
                (attempt,) = found[name].attempts
                assert attempt.response is not None
                again(first, attempt.response)
                assert_same(await captured(box, path, found[name].request.body.encode()), found[name])
    assert not second.requests
    return found
