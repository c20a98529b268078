"""Whole responses and streams of engines with one list in them of any length."""

from collections.abc import Callable
from typing import Any, Final

import orjson

from berth.canonical import Json
from berth.sse import DONE, comment, frame

Item = Callable[[int], Any]

_CHUNK: Final[Json] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "served"}
_USAGE: Final[Json] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def chunk(delta: Json | None = None, *, index: int = 0, **choice: Any) -> bytes:
    """A frame of one choice of a chat."""
    whole = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": None, **choice}
    return frame(orjson.dumps({**_CHUNK, "choices": [whole]}))


def call_delta(index: int, arguments: str, *, name: str | None = None) -> Json:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": index, "function": function, **({"id": f"c{index}", "type": "function"} if name else {})}


def _calls(*deltas: Json) -> bytes:
    return chunk({"tool_calls": list(deltas)})


def _logprobs(text: str) -> Json:
    token = {"token": text, "logprob": -0.1, "bytes": list(text.encode())}
    return {"content": [{**token, "top_logprobs": [token]}]}


def _end(*reasons: str) -> list[bytes]:
    ends = [chunk(index=index, finish_reason=reason) for index, reason in enumerate(reasons)]
    return [*ends, frame(orjson.dumps({**_CHUNK, "choices": [], "usage": _USAGE})), DONE]


def chat_streams(length: int) -> dict[str, list[bytes]]:
    """By name: the pieces in which a stream of a chat comes, `length` of them, or with `length` parts in one."""

    def each(item: Callable[[int], bytes], *end: bytes) -> list[bytes]:
        return [*(item(i) for i in range(length)), *(end or _end("stop"))]

    def all_in_one(item: Callable[[int], Json]) -> list[bytes]:
        return [_calls(*(item(i) for i in range(length))), *_end("tool_calls")]

    opened = _calls(call_delta(0, '{"a": [', name="f"))
    both = _calls(call_delta(0, '{"a": [', name="f")) + _calls(call_delta(1, "", name="g"))
    text = [chunk({"role": "assistant", "content": ""}), *each(lambda i: chunk({"content": f"word{i} "}))]
    whole = b"".join(text)
    quoted = _calls(call_delta(0, '{"a": "', name="f")) + _calls(call_delta(1, "", name="g"))
    return {
        "text": text,
        "text in one piece": [whole],
        "text in pieces of 50 bytes": [whole[i : i + 50] for i in range(0, len(whole), 50)],
        "lines ended by CRLF": [piece.replace(b"\n", b"\r\n") for piece in text],
        "one long frame in pieces": [
            *(piece.encode() for piece in _cut(chunk({"content": "word " * length}).decode(), 64)),
            *_end("stop"),
        ],
        "text of several shapes": each(lambda i: chunk({"content": f"w{i}"}, stop_reason=None, token_ids=[i])),
        "white space": each(lambda _: chunk({"content": " "})),
        "reasoning": each(lambda i: chunk({"reasoning_content": f"thought {i}"})),
        "reasoning and text in turn": each(lambda i: chunk({("content", "reasoning_content")[i % 2]: f"t{i}"})),
        "log probabilities": each(lambda i: chunk({"content": f"t{i}"}, logprobs=_logprobs(f"t{i}"))),
        "comments": each(lambda i: comment(f"heartbeat {i}"), chunk({"content": "t"}), *_end("stop")),
        "calls one after another": each(lambda i: _calls(call_delta(i, "{}", name="f"))),
        "calls never complete": each(lambda i: _calls(call_delta(i, '{"a": [', name="f"))),
        "calls never complete, text after each": each(
            lambda i: chunk({"content": "t", "tool_calls": [call_delta(i, "{", name="f")]})
        ),
        "calls in one frame": all_in_one(lambda i: call_delta(i, "{}", name="f")),
        "entries of one call in one frame": all_in_one(lambda _: call_delta(0, " " * 40, name="f")),
        "pieces of one call": [opened, *each(lambda i: _calls(call_delta(0, f'{{"b": {i}}},')))],
        "pieces of a call that another follows": [both, *each(lambda _: _calls(call_delta(0, '{"b": 1}')))],
        "pieces of a text with braces in a call": [quoted, *each(lambda _: _calls(call_delta(0, "{a long text}")))],
        "text after a call that is not complete": [opened, *each(lambda i: chunk({"content": f"t{i}"}))],
        "pieces of several calls in turn": each(lambda i: _calls(call_delta(i % 50, " {}" * 9, name="f"))),
    }


def _cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def completion_stream(length: int) -> list[bytes]:
    def piece(i: int, reason: str | None = None) -> bytes:
        choice = {"index": 0, "text": f"word{i} ", "logprobs": None, "finish_reason": reason}
        return frame(orjson.dumps({**_CHUNK, "object": "text_completion", "choices": [choice]}))

    return [*(piece(i) for i in range(length)), piece(length, "stop"), DONE]


def choices_stream(length: int) -> list[bytes]:
    """Of a chat with n = `length`."""
    begun = [chunk({"content": "t"}, index=i) for i in range(length)]
    return [*begun, *(chunk(index=i, finish_reason="stop") for i in range(length)), DONE]


def _chat_answer(message: Json, **choice: Any) -> Json:
    whole = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", **choice}
    return {**_CHUNK, "object": "chat.completion", "choices": [whole], "usage": _USAGE}


def chat_answers(length: int) -> dict[str, Json]:
    calls = [call_delta(i, '{"a": 1}', name="f") for i in range(length)]
    choices = [{"index": i, "message": {"content": "t"}, "finish_reason": "stop"} for i in range(length)]
    token = _logprobs("t")["content"][0]
    return {
        "text": _chat_answer({"content": "word " * length}),
        "reasoning": _chat_answer({"content": "t", "reasoning_content": "word " * length}),
        "calls": _chat_answer({"content": None, "tool_calls": calls}),
        "calls without arguments": _chat_answer({"tool_calls": [call_delta(i, "{", name="f") for i in range(length)]}),
        "choices": {**_chat_answer({"content": "t"}), "choices": choices},
        "log probabilities": _chat_answer({"content": "t"}, logprobs={"content": [token] * length}),
        "unknown fields": {**_chat_answer({"content": "t"}), **{f"field_{i}": i for i in range(length)}},
    }


def completion_answers(length: int) -> dict[str, Json]:
    tokens = [f"t{i}" for i in range(length)]
    logprobs = {"tokens": tokens, "token_logprobs": [-0.1] * length, "top_logprobs": [{"t": -0.1}] * length}
    choice: Json = {"index": 0, "text": "t", "finish_reason": "stop"}
    document: Json = {**_CHUNK, "object": "text_completion", "choices": [choice], "usage": _USAGE}
    return {
        "choices": {**document, "choices": [{**choice, "index": i} for i in range(length)]},
        "log probabilities": {**document, "choices": [{**choice, "logprobs": logprobs}]},
    }


def other_answers(length: int) -> dict[str, Json]:
    """By path, of operations whose responses are lists."""
    vectors = [{"index": i, "object": "embedding", "embedding": [0.1, 0.2, 0.3]} for i in reversed(range(length))]
    tokens = {"count": length, "tokens": [1] * length, "token_strs": ["é"] * length, "max_model_len": 9}
    return {
        "/v1/embeddings": {"object": "list", "data": vectors, "model": "served", "usage": _USAGE},
        "/api/embed": {"object": "list", "data": vectors, "model": "served", "usage": _USAGE},
        "/v1/rerank": {"results": [{"index": i, "relevance_score": i / 7} for i in range(length)], "usage": _USAGE},
        "/rerank": {"results": [{"index": i, "relevance_score": i / 7} for i in range(length)], "usage": _USAGE},
        "/v1/score": {"data": [{"index": i, "score": 0.1} for i in range(length)], "usage": _USAGE},
        "/v1/classify": {"data": [{"index": i, "label": "l", "probs": [0.1]} for i in range(length)]},
        "/v1/tokenize": tokens,
    }
