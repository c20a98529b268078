"""Checks with Ollama's official client, and canonical streams as input."""

from collections.abc import Sequence
from typing import Any

import httpx
import ollama
import orjson

from berth.apis.base import NDJSON
from berth.apis.ollama.request import TimedRequest
from berth.apis.ollama.response import CHAT, Shape
from berth.apis.ollama.stream import OllamaStream
from berth.canonical import Json, Operation
from berth.sse import DONE
from berth.sse import frame as sse_frame

Parts = list[ollama.ChatResponse]
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def timed(operation: Operation = Operation.CHAT, model: str = "m:latest") -> TimedRequest:
    return TimedRequest(operation=operation, model=model, body={}, stream=True, include_usage=True, begun_ns=0)


def encoder(shape: Shape = CHAT, operation: Operation = Operation.CHAT) -> OllamaStream:
    return OllamaStream(timed(operation), shape)


def frame(finish_reason: str | None = None, *, logprobs: Any = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return sse_frame(_chunk([choice]))


def text_frame(text: str, finish_reason: str | None = None) -> bytes:
    """Of a completion."""
    return sse_frame(_chunk([{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}]))


def call_frame(*calls: tuple[int, str | None, str]) -> bytes:
    """`calls`: index, name of a call that begins, a piece of its arguments."""
    deltas = [
        {"index": index, "function": {"arguments": piece}}
        if name is None
        else {"index": index, "id": f"c{index}", "type": "function", "function": {"name": name, "arguments": piece}}
        for index, name, piece in calls
    ]
    return frame(tool_calls=deltas)


def usage_frame(usage: Json = USAGE) -> bytes:
    return sse_frame(orjson.dumps({"id": "x", "model": "m", "choices": [], "usage": usage}))


def ending(finish_reason: str = "stop") -> bytes:
    return frame(finish_reason) + usage_frame() + DONE


def heard(written: bytes) -> Parts:
    """What a client of /api/chat gets of these bytes. ollama.ResponseError where they tell an error."""
    return list(_client(written).chat("m", [{"role": "user", "content": "Hello"}], stream=True))


def heard_generated(written: bytes) -> list[ollama.GenerateResponse]:
    return list(_client(written).generate("m", "Hello", stream=True))


def lines(written: bytes) -> list[Json]:
    """The parts, each of which holds what the client's types say and is one line to everybody."""
    assert written.endswith(b"\n")
    assert b"\n\n" not in written
    assert len(written.decode().splitlines()) == written.count(b"\n")
    return [orjson.loads(line) for line in written.splitlines()]


def joined(parts: Sequence[ollama.ChatResponse]) -> Json:
    """The whole answer."""
    calls = [call.model_dump() for part in parts for call in part.message.tool_calls or ()]
    return {
        "content": "".join(part.message.content or "" for part in parts),
        "thinking": "".join(part.message.thinking or "" for part in parts),
        "tool_calls": calls,
        "end": parts[-1].model_dump(include={"done", "done_reason", "prompt_eval_count", "eval_count"}),
    }


def _client(written: bytes) -> ollama.Client:
    answer = httpx.Response(200, content=written, headers={"content-type": NDJSON.decode()})
    return ollama.Client("http://judge", transport=httpx.MockTransport(lambda _request: answer))


def _chunk(choices: list[Json]) -> bytes:
    return orjson.dumps({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices})
