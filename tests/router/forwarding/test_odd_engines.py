"""Engines whose frames are legal JSON and odd: deep, huge, of the wrong types, of any field. Every stream of every API
over every dialect ends with one of its last events, and every other response is one of its API.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from berth.apis.base import NDJSON, ApiFormat
from berth.apis.stream_events import MEDIA, STREAMS, StreamEvents
from berth.canonical import Operation
from berth.errors import ApiError
from berth.plan import DialectName, Task
from berth.router.response_store import ResponseFiles
from berth.router.server.api_routes import formats
from berth.sse import DONE
from tests.fakes.forwarding import Client, Forwarding
from tests.fakes.router import replica, route
from tests.fakes.upstream import LAST_CHUNK, FakeUpstream, answer, chunk, stream_head

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), pytest.mark.unmeasured]  # thousands of streams

# The dialects of attached servers read responses as OPENAI does; Ollama has streams of its own.
DIALECTS = (DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM, DialectName.OPENAI)
MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"name": "f", "description": "d"}
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
FUNCTION = {"type": "function", "function": {**TOOL, "parameters": PARAMETERS}}
# What the clients ask; the model is added.
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "tools": [FUNCTION]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello", "tools": [{"type": "function", **TOOL, "parameters": PARAMETERS}]},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9, "tools": [{**TOOL, "input_schema": PARAMETERS}]},
    "/api/chat": {"messages": MESSAGES, "tools": [FUNCTION]},
    "/api/generate": {"prompt": "hello"},
    "/generate_stream": {"inputs": "hello"},
}
USAGE = {"prompt_tokens": 3, "total_tokens": 3}
VECTOR = {
    "object": "list",
    "model": "m",
    "data": [{"index": 0, "object": "embedding", "embedding": [0.5, 1]}],
    "usage": USAGE,
}
RANKS = {"results": [{"index": 0, "relevance_score": 0.5, "document": {"text": "a"}}], "usage": USAGE}
SCORES = {"data": [{"index": 0, "score": 0.5}], "usage": USAGE}
CLASSES = {"data": [{"index": 0, "label": "a", "probs": [0.5, 0.5]}], "usage": USAGE}
TOKENS = {"count": 2, "max_model_len": 9, "tokens": [1, 2], "token_strs": ["a", "b"]}
# Those without streams: the task of the model, what the clients ask, and what vLLM says.
OTHERS: dict[str, tuple[Task, dict[str, Any], dict[str, Any]]] = {
    "/v1/embeddings": (Task.EMBED, {"input": "a"}, VECTOR),
    "/api/embed": (Task.EMBED, {"input": "a"}, VECTOR),
    "/api/embeddings": (Task.EMBED, {"prompt": "a"}, VECTOR),
    "/v1/rerank": (Task.RERANK, {"query": "a", "documents": ["b"]}, RANKS),
    "/rerank": (Task.RERANK, {"query": "a", "texts": ["b"], "return_text": True}, RANKS),
    "/v1/score": (Task.RERANK, {"text_1": "a", "text_2": "b"}, SCORES),
    "/v1/classify": (Task.CLASSIFY, {"input": "a"}, CLASSES),
    "/tokenize": (Task.GENERATE, {"prompt": "a", "return_token_strs": True}, TOKENS),
    "/detokenize": (Task.GENERATE, {"tokens": [1, 2]}, {"prompt": "a"}),
    "/v1/messages/count_tokens": (Task.GENERATE, {"messages": MESSAGES}, TOKENS),
    "/v1/responses/input_tokens": (Task.GENERATE, {"input": "hello"}, TOKENS),
}
DEEP = "[" * 300 + "]" * 300
DEEP_OBJECT = '{"a":' * 300 + "1" + "}" * 300
ODD: dict[str, str] = {  # as JSON, some of which only Python's reader takes
    "null": "null",
    "true": "true",
    "negative": "-1",
    "huge": str(2**63),
    "largest": str(2**64 - 1),
    "beyond": "1" + "0" * 30,
    "fraction": "1.5",
    "infinite": "1e400",
    "not a number": "NaN",
    "empty text": '""',
    "text": '"odd"',
    "lone surrogate": '"\\ud800"',
    "control characters": '"\\u0000\\u2028\\n\\n"',
    "deep text": json.dumps(DEEP_OBJECT),
    "long": json.dumps("x" * 100_000),
    "list": "[]",
    "list of null": "[null]",
    "object": "{}",
    "deep list": DEEP,
    "deep object": DEEP_OBJECT,
}
MARK = "\0odd\0"
PATHS = [path for table in STREAMS for path in table.paths if path in ASKED]
_EACH = 5  # one of so many odd values is tried in a place


def head(*, chat: bool) -> dict[str, Any]:
    return {"id": "x-1", "object": "chat.completion.chunk" if chat else "text_completion", "created": 1, "model": "m"}


def says(finish: str | None = None, *, chat: bool, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    said = {"delta": delta} if chat else {"text": delta.get("content", "")}
    return {**head(chat=chat), "choices": [{"index": 0, **said, "logprobs": logprobs, "finish_reason": finish}]}


def sample(*, chat: bool) -> list[dict[str, Any]]:
    """A stream with everything in it that engines send."""
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
    rest = {"index": 0, "function": {"arguments": "1}"}}
    other = {"index": 1, "id": "call_2", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = [says(chat=chat, tool_calls=[one]) for one in (call, rest, other)] if chat else []
    token = {"token": "b", "logprob": -0.5, "bytes": [98]}
    lists = {"tokens": ["b"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -0.5}], "text_offset": [0]}
    logprobs = {"content": [{**token, "top_logprobs": [token]}]} if chat else lists
    details = {"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 1}}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, **details}
    return [
        says(chat=chat, role="assistant", content=""),
        *([says(chat=chat, reasoning="hm")] if chat else []),
        says(chat=chat, content="a"),
        says(chat=chat, content="b", logprobs=logprobs),
        *calls,
        says("tool_calls" if chat else "stop", chat=chat),
        {**head(chat=chat), "choices": [], "usage": usage},
    ]


def whole(*, chat: bool) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "a", "reasoning": "hm", "tool_calls": [call]}
    said = {"message": message} if chat else {"text": "a"}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": "stop"}
    return {**head(chat=chat), "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every part of a document, itself included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(document: Any, path: tuple[Any, ...], odd: str) -> str:
    """The JSON of the document with something odd in that place."""
    if not path:
        return odd
    copy = orjson.loads(orjson.dumps(document))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = MARK
    return json.dumps(copy).replace(json.dumps(MARK), odd)


def some_of(odd: dict[str, str], count: int, dialect: DialectName, path: str) -> list[tuple[str, str]]:
    """A few for each place: all of them over all dialects and APIs."""
    start = count + 3 * DIALECTS.index(dialect) + PATHS.index(path)
    return list(odd.items())[start % _EACH :: _EACH]


class Engines:
    def __init__(self, run_dir: Path, engines: dict[DialectName, FakeUpstream]) -> None:
        self.engines = engines
        replicas = [replica(f"{name}-a", engine.url, dialect=name) for name, engine in engines.items()]
        self.router = Forwarding(run_dir, replicas)
        store = ResponseFiles(run_dir / "responses", writers=1, open_access=True)
        self.apis = formats(store)

    async def ask(self, dialect: DialectName, api: ApiFormat, path: str, client: Client, **fields: Any) -> None:
        body = {**ASKED[path], "model": dialect.value, **fields}
        await self.router.ask(api, orjson.dumps(body), client)


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[Engines]:
    with ExitStack() as stack:
        engines = Engines(tmp_path, {name: stack.enter_context(FakeUpstream()) for name in DIALECTS})
        yield engines
        engines.router.close()


def events_of(api: ApiFormat, body: bytes) -> list[bytes]:
    if api.stream_type == NDJSON:
        return body.splitlines()
    frames = body.decode().split("\n\n")
    assert frames.pop() == ""
    lines = [line for frame in frames for line in frame.split("\n") if line.startswith("data:")]
    return [line.removeprefix("data:").strip().encode() for line in lines]


def check_stream(table: StreamEvents, api: ApiFormat, client: Client, case: str) -> None:
    assert client.ended, case
    assert client.status == 200, case
    last = [table.last(event) for event in events_of(api, client.body)]
    assert last[-1] is not None, (case, client.body[-300:])
    assert last[:-1] == [None] * (len(last) - 1), (case, client.body[-600:])


def check_response(api: ApiFormat, client: Client, case: str) -> None:
    """A complete response, or an error of the API that does not blame Berth."""
    assert client.ended, case
    document = json.loads(client.body, parse_constant=pytest.fail)
    if client.status != 200:
        assert client.status != 500, (case, document)
        assert document.keys() == orjson.loads(api.error(ApiError("x"))).keys(), case


async def try_odd_frames(engines: Engines, dialect: DialectName, path: str, **more: Any) -> None:
    """`more`: of the request."""
    table = next(one for one in STREAMS if path in one.paths)
    api, engine = engines.apis[path], engines.engines[dialect]
    frames = sample(chat=api.operation is Operation.CHAT)
    cases = [(number, place) for number, frame in enumerate(frames) for place in places(frame)]
    opening = b"".join(b"data: %b\n\n" % orjson.dumps(frame) for frame in frames[:3])
    for count, (number, place) in enumerate(cases):
        for name, odd in some_of(ODD, count, dialect, path):
            sent = [orjson.dumps(frame) for frame in frames]
            sent[number] = changed(frames[number], place, odd).encode()
            body = b"".join(b"data: %b\n\n" % frame for frame in sent) + DONE
            client = Client()
            engine.answers(stream_head(), chunk(opening), client.has_some, chunk(body), LAST_CHUNK)
            await engines.ask(dialect, api, path, client, stream=True, **more)
            check_stream(table, api, client, f"{name} as {place} of frame {number}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_stream_of_odd_frames_ends_with_its_last_event(engines: Engines, dialect: DialectName, path: str) -> None:
    await try_odd_frames(engines, dialect, path)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}, "n": 2}),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 1, "stream_options": {"include_usage": True}}),
        ("/v1/responses", {"include": ["message.output_text.logprobs"], "reasoning": {"summary": "auto"}}),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}}),
        ("/api/chat", {"logprobs": True, "top_logprobs": 1}),
        ("/generate_stream", {"parameters": {"details": True, "return_full_text": True}}),
    ],
)
async def test_stream_with_more_of_odd_frames_ends_with_its_last_event(
    engines: Engines, path: str, more: dict[str, Any]
) -> None:
    await try_odd_frames(engines, DialectName.VLLM, path, **more)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_odd_response_is_translated_or_an_error(engines: Engines, dialect: DialectName, path: str) -> None:
    api, engine = engines.apis["/generate" if path == "/generate_stream" else path], engines.engines[dialect]
    document = whole(chat=api.operation is Operation.CHAT)
    for count, place in enumerate(places(document)):
        for name, odd in some_of(ODD, count, dialect, path):
            client = Client()
            engine.answers(answer(changed(document, place, odd).encode()))
            await engines.ask(dialect, api, path, client, stream=False)
            check_response(api, client, f"{name} as {place}")


@pytest.mark.parametrize("path", OTHERS)
async def test_odd_response_without_streams_is_translated_or_an_error(tmp_path: Path, path: str) -> None:
    task, asked, document = OTHERS[path]
    with FakeUpstream() as engine:
        one = replica("m-a", engine.url, task=task, vocab_size=1000)
        router = Forwarding(tmp_path, [one], [route("m", ["m-a"], task=task)])
        api = formats(ResponseFiles(tmp_path / "responses", writers=1, open_access=True))[path]
        for place in places(document):
            for name, odd in ODD.items():
                client = Client()
                engine.answers(answer(changed(document, place, odd).encode()))
                await router.ask(api, orjson.dumps({**asked, "model": "m"}), client)
                check_response(api, client, f"{name} as {place}")
        router.close()


async def test_odd_events_of_a_transcription_end_with_its_last_event(tmp_path: Path) -> None:
    delta, done = {"type": "transcript.text.delta", "delta": "a"}, {"type": "transcript.text.done", "text": "ab"}
    frames = [delta, delta, {**done, "usage": {"type": "tokens", "input_tokens": 1, "output_tokens": 2}}]
    form = b'--x\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    file = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
    body = form % (b"model", b"m") + form % (b"stream", b"true") + file
    with FakeUpstream() as engine:
        router = Forwarding(tmp_path, [replica("m-a", engine.url)])
        api = formats(ResponseFiles(tmp_path / "responses", writers=1, open_access=True))["/v1/audio/transcriptions"]
        for number, frame in enumerate(frames):
            for place in places(frame):
                for name, odd in ODD.items():
                    sent = [orjson.dumps(one) for one in frames]
                    sent[number] = changed(frame, place, odd).encode()
                    rest = b"".join(b"data: %b\n\n" % one for one in sent)
                    client = Client()
                    opening = chunk(b"data: %b\n\n" % orjson.dumps(delta))
                    engine.answers(stream_head(), opening, client.has_some, chunk(rest), LAST_CHUNK)
                    await router.ask(api, body, client, {b"content-type": b"multipart/form-data; boundary=x"})
                    check_stream(MEDIA, api, client, f"{name} as {place} of event {number}")
        router.close()
