"""A stream that is cut goes on with another engine, judged by the official client: wherever the cut is."""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import ollama
import openai
import orjson
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from berth.plan import DialectName
from berth.sse import DONE
from berth.state import ReplicaStatus
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state
from tests.fakes.upstream import (
    CLOSE,
    HANG,
    RESET,
    FakeUpstream,
    Request,
    Step,
    chunk,
    error_answer,
    json_answer,
    stream_head,
)

TEXT = 'Zwölf Boxkämpfer 世界 jagen 😀 Viktor über\nden "Deich" \\o/'
PIECES = [TEXT[start : start + 5] for start in range(0, len(TEXT), 5)]
HELLO: Any = [{"role": "user", "content": "hello"}]
PROMPT_TOKENS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    router: RouterProcess
    first: FakeUpstream
    second: FakeUpstream

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.router.url}/v1", api_key="none", max_retries=0, timeout=10)


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[Pair]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as first, FakeUpstream() as second:
        replicas = [
            replace(replica("chat-vllm", first.url, vocab_size=1000), weights="w"),
            replace(replica("chat-sglang", second.url, dialect=DialectName.SGLANG, vocab_size=1000), weights="w"),
        ]
        # Sixteen clients in one process may keep each other from sending.
        plan = make_plan(run_dir, replicas, limits=replace(LIMITS, client_stall_timeout_s=10))
        publish(plan)
        router = RouterProcess(plan)
        router.await_answer()
        yield Pair(router=router, first=first, second=second)
        assert router.stop() == 0
    shutil.rmtree(run_dir)


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    shared_pair.first.forget()
    shared_pair.second.forget()
    shared_pair.second.answers_with(goes_on)
    router = shared_pair.router
    router.make_well(*(replica_state(one.name, ReplicaStatus.READY) for one in router.plan.replicas))
    return shared_pair


def frames(pieces: list[str], *, id_: str = "chatcmpl-first", chat: bool = True, end: bool = True) -> bytes:
    """A whole stream of vLLM's or SGLang's kind."""

    def one(says: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, **({"delta": says} if chat else {"text": says.get("content", "")})}
        kind = "chat.completion.chunk" if chat else "text_completion"
        document = {"id": id_, "object": kind, "created": 1, "model": "chat"}
        return b"data: %b\n\n" % orjson.dumps({**document, "choices": [{**choice, "finish_reason": finish}]})

    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": len(pieces), "total_tokens": 0}
    body = one({"role": "assistant", "content": ""}) + b"".join(one({"content": piece}) for piece in pieces)
    if end:
        body += one({}, "stop") + b"data: %b\n\n" % orjson.dumps({"id": id_, "choices": [], "usage": usage}) + DONE
    return body


def goes_on(request: Request) -> tuple[Step, ...]:
    """An engine with the same weights: it says what comes after what it is told to have said."""
    body = request.json
    if request.path == "/tokenize":
        return (json_answer({"count": -(-len(body["prompt"]) // 5)}),)
    chat = "messages" in body
    said = body["messages"][-1]["content"] if chat and body.get("continue_final_message") else ""
    said = body["prompt"].removeprefix("hello") if not chat else said
    assert TEXT.startswith(said), said
    rest = TEXT[len(said) :]
    stream = frames([rest[:3], rest[3:]] if rest else [], id_="chatcmpl-second", chat=chat)
    return stream_head(), chunk(stream), b"0\r\n\r\n"


def cut(stream: bytes, offset: int) -> tuple[Step, ...]:
    """In one chunk more than comes: the connection ends inside it."""
    return stream_head(), b"%x\r\n" % len(stream) + stream[:offset], CLOSE


Reading = tuple[str, set[str], str | None]


async def read(client: AsyncOpenAI) -> Reading:
    """The text, the ids of all chunks, and the finish reason."""
    text, ids, finish = "", set(), None
    async for one in await client.chat.completions.create(model="chat", messages=HELLO, stream=True):
        ids.add(one.id)
        text += one.choices[0].delta.content or ""
        finish = one.choices[0].finish_reason or finish
    return text, ids, finish


def openai_client(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)


def anthropic_client(url: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="none", max_retries=0, timeout=30)


def ollama_client(url: str) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=url, timeout=30)


async def read_message(client: AsyncAnthropic) -> Reading:
    ask: Any = {"model": "chat", "messages": HELLO, "max_tokens": 100}
    async with client.messages.stream(**ask) as stream:
        message = await stream.get_final_message()
    (block,) = message.content
    assert block.type == "text"
    return block.text, {message.id}, {"end_turn": "stop"}.get(str(message.stop_reason))


async def read_response(client: AsyncOpenAI) -> Reading:
    async with client.responses.stream(model="chat", input="hello") as stream:
        response = await stream.get_final_response()
    return response.output_text, {response.id}, {"completed": "stop"}.get(str(response.status))


async def read_lines(client: ollama.AsyncClient) -> Reading:
    text, reason = "", None
    async for part in await client.chat("chat", HELLO, stream=True):
        text += part.message.content or ""
        reason = part.done_reason or reason
    return text, {""}, reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "read_one", "step"),
    [
        (openai_client, read, 1),
        (anthropic_client, read_message, 5),
        (openai_client, read_response, 5),
        (ollama_client, read_lines, 5),
    ],
)
def test_cut_at_any_byte_is_invisible(pair: Pair, client: Any, read_one: Any, step: int) -> None:
    """Both engines cut what they begin, each time some bytes later, and go on with what the other has begun."""
    stream = frames(PIECES)
    begin = len(frames(PIECES[:1], end=False))  # before that nothing was said, and the request simply goes elsewhere
    places = range(begin, len(stream), step)
    offsets = iter(places)
    continued: list[int] = []

    def cuts(request: Request) -> tuple[Step, ...]:
        if request.path == "/tokenize":
            return goes_on(request)
        if request.json.get("continue_final_message"):
            continued.append(1)
            return goes_on(request)
        return cut(stream, next(offsets, len(stream)))

    pair.first.answers_with(cuts)
    pair.second.answers_with(cuts)

    answers = asyncio.run(read_all(client(pair.router.url), read_one, len(places)))

    assert [one for one in answers if (one[0], len(one[1]), one[2]) != (TEXT, 1, "stop")] == []
    assert next(offsets, None) is None
    assert len(continued) > len(places) * 0.8  # but for cuts after the finish_reason


async def read_all(client: Any, read_one: Callable[[Any], Awaitable[Reading]], count: int) -> list[Reading]:
    gate = asyncio.Semaphore(16)
    async with client:

        async def one() -> Reading:
            async with gate:
                return await read_one(client)

        return await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.parametrize("end", [(RESET,), (CLOSE,), (b"zz\r\n", HANG), (chunk(b"data: {]\n\n"), HANG), (HANG,)])
def test_stream_broken_in_any_way_is_continued(pair: Pair, end: tuple[Step, ...]) -> None:
    seen = threading.Event()
    pair.first.answers(stream_head(), chunk(frames(PIECES[:3], end=False)), seen, *end)

    stream = pair.client().chat.completions.create(
        model="chat", messages=HELLO, stream=True, max_tokens=50, stream_options={"include_usage": True}
    )
    first = next(stream)
    seen.set()
    chunks = [first, *stream]

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert {c.id for c in chunks} == {"chatcmpl-first"}
    assert [c.choices[0].delta.role for c in chunks if c.choices].count("assistant") == 1
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT_TOKENS - 3, 2 + 3)
    asked = pair.second.requests[-1].json
    assert (asked["max_tokens"], asked["continue_final_message"]) == (47, True)


def test_continuation_leaves_a_comment(pair: Pair) -> None:
    pair.first.answers(*cut(frames(PIECES), 900))

    body = {"model": "chat", "messages": HELLO, "stream": True}
    answer = httpx.post(f"{pair.router.url}/v1/chat/completions", json=body, timeout=10).text

    assert "\n\n: berth moved chat-vllm -> chat-sglang at token " in answer
    assert answer.endswith("data: [DONE]\n\n")
    metrics = httpx.get(f"{pair.router.url}/metrics").text
    assert 'berth_streams_continued_total{model="chat"}' in metrics


def test_completion_is_continued(pair: Pair) -> None:
    pair.first.answers(*cut(frames(PIECES, chat=False), 700))

    stream = pair.client().completions.create(model="chat", prompt="hello", stream=True)

    assert "".join(c.choices[0].text for c in stream) == TEXT


@pytest.mark.parametrize("pieces", [PIECES[:4], [TEXT[:10], TEXT[10:20]]], ids=["a frame each", "two in a frame"])
def test_stream_with_all_tokens_is_completed_without_an_engine(pair: Pair, pieces: list[str]) -> None:
    pair.first.answers(stream_head(), chunk(frames(pieces, end=False)), RESET)

    stream = pair.client().chat.completions.create(model="chat", messages=HELLO, stream=True, max_tokens=4)
    chunks = list(stream)

    assert chunks[-1].choices[0].finish_reason == "length"
    assert [request.path for request in pair.second.requests] == ["/tokenize"]


def test_frames_count_as_tokens_without_tokenize(pair: Pair) -> None:
    def silent(request: Request) -> tuple[Step, ...]:
        return (error_answer("no such path", status=404),) if request.path == "/tokenize" else goes_on(request)

    pair.first.answers(stream_head(), chunk(frames(PIECES[:3], end=False)), RESET)
    pair.second.answers_with(silent)

    list(pair.client().chat.completions.create(model="chat", messages=HELLO, stream=True, max_tokens=9))

    assert pair.second.requests[-1].json["max_tokens"] == 6


def test_missing_usage_is_not_invented(pair: Pair) -> None:
    pair.first.answers(stream_head(), chunk(frames(PIECES[:3], end=False)), RESET)

    with pytest.raises(openai.APIError, match="incomplete"):
        list(
            pair.client().chat.completions.create(
                model="chat", messages=HELLO, stream=True, max_tokens=3, stream_options={"include_usage": True}
            )
        )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"n": 2}, "choices"), ({"seed": 1}, "seed"), ({"response_format": {"type": "json_object"}}, "constraint")],
)
def test_stream_that_cannot_be_continued_ends_with_an_error_and_is_counted(
    pair: Pair, fields: dict[str, Any], reason: str
) -> None:
    pair.first.answers(stream_head(), chunk(frames(PIECES[:3], end=False)), RESET)

    with pytest.raises(openai.APIError, match="incomplete"):
        list(pair.client().chat.completions.create(model="chat", messages=HELLO, stream=True, **fields))

    assert pair.second.requests == []
    metrics = httpx.get(f"{pair.router.url}/metrics").text
    assert f'berth_streams_broken_total{{model="chat",reason="{reason}"}}' in metrics


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((error_answer("no", status=500),), id="a refusal"),
        pytest.param((stream_head(), chunk(frames(["x"], end=False)), RESET), id="a second cut"),
        pytest.param(
            (stream_head(), chunk(b'data: {"id":"x","choices":[{"index":0,"delta":{"reasoning":"hm"}}]}\n\n'), HANG),
            id="reasoning",
        ),
    ],
)
def test_failed_continuation_ends_with_the_first_error(pair: Pair, steps: Any) -> None:
    pair.first.answers(stream_head(), chunk(frames(PIECES[:3], end=False)), RESET)
    pair.second.answers(*steps)

    with pytest.raises(openai.APIError, match="chat-vllm: the connection broke"):
        list(pair.client().chat.completions.create(model="chat", messages=HELLO, stream=True))
