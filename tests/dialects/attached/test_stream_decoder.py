"""Streams of attached servers, as they were seen on the wire, made into OpenAI's."""

from typing import Any

import orjson
import pytest

from berth.canonical import Failure, FailureKind, Json
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from berth.sse import DONE, frame, frames_of
from tests.fakes.recordings import inference_request

ROLE: Json = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
NAMED: Json = {"type": "function", "function": {"name": "see"}}


def text(content: str, **more: Any) -> Json:
    return {"choices": [{"index": 0, "delta": {"content": content}, **more}]}


def decoded(*chunks: Json | bytes, usage: bool = True, **fields: Any) -> list[Json | str] | Failure:
    """What a client gets, without what is the same in all frames."""
    options = {"stream_options": {"include_usage": True}} if usage else {}
    request = inference_request({"messages": [], "stream": True, **options, **fields})
    decoder = DIALECTS[DialectName.OPENAI].stream(request, "m")
    output = b""
    for chunk in chunks:
        same = {"id": "x", "created": 1, "model": "theirs", "object": "chat.completion.chunk"}
        output += decoder.feed(chunk if isinstance(chunk, bytes) else frame(orjson.dumps({**same, **chunk})))
        if decoder.failure is not None:
            return decoder.failure
    if failure := decoder.end():
        return failure
    return [shown(one) for one in frames_of(output)]


def shown(one: bytes) -> Json | str:
    data = one.removeprefix(b"data: ").strip()
    if data == b"[DONE]":
        return "[DONE]"
    chunk: Json = orjson.loads(data)
    assert (chunk["id"], chunk["model"]) == ("x", "m")
    return {name: value for name, value in chunk.items() if name in ("choices", "usage")}


def choice(finish_reason: str | None = None, **delta: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def test_usage_in_the_last_frame_of_content_comes_apart() -> None:
    """Of transformers serve: no `finish_reason` key, usage in the frame with the end, no [DONE]."""
    got = decoded(ROLE, text("a"), text("b"), {**text("", finish_reason="stop"), "usage": USAGE})
    assert got == [
        choice(role="assistant", content=""),
        choice(content="a"),
        choice(content="b"),
        choice("stop", content=""),
        {"choices": [], "usage": USAGE},
    ]


def test_usage_with_a_choice_that_says_nothing_is_usage() -> None:
    """Of LiteLLM: a frame of its own with a choice, and a stray frame after the end."""
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    stray: Json = {"choices": [{"index": 0, "delta": {}}]}
    got = decoded(ROLE, text("a"), end, stray, {**stray, "usage": USAGE}, DONE)
    assert got == [
        choice(role="assistant", content=""),
        choice(content="a"),
        choice("stop"),
        {"choices": [], "usage": USAGE},
        "[DONE]",
    ]


def test_nothing_is_left_of_usage_that_was_not_asked_for() -> None:
    stray: Json = {"choices": [{"index": 0, "delta": {}}], "usage": USAGE}
    got = decoded(ROLE, text("a", finish_reason="stop"), stray, {"choices": [], "usage": USAGE}, DONE, usage=False)
    assert got == [choice(role="assistant", content=""), choice("stop", content="a"), "[DONE]"]


def test_role_comes_once() -> None:
    """Of mlx_lm.server: a role in every frame."""
    got = decoded(*(choice(role="assistant", content=one) for one in "ab"), choice("stop"), DONE)
    assert got == [choice(role="assistant", content="a"), choice(content="b"), choice("stop"), "[DONE]"]


def test_usage_of_each_choice_is_added_up() -> None:
    """Of llama.cpp: a usage frame after each of several choices."""
    ends: list[Json] = [
        {"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": "stop"}]} for index in (0, 1)
    ]
    each: Json = {"choices": [], "usage": USAGE}
    got = decoded(ends[0], each, ends[1], each, DONE, n=2)
    assert isinstance(got, list)
    assert got[2:] == [{"choices": [], "usage": {**USAGE, "completion_tokens": 4, "total_tokens": 7}}, "[DONE]"]


def test_usage_in_every_frame_comes_once() -> None:
    got = decoded(*({**text(one), "usage": USAGE} for one in "ab"), {**choice("stop"), "usage": USAGE}, DONE)
    assert isinstance(got, list)
    assert [one["usage"] for one in got if isinstance(one, dict) and "usage" in one] == [USAGE]


def test_many_frames_of_the_same_form_are_not_parsed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = DIALECTS[DialectName.OPENAI].stream(inference_request({"messages": [], "stream": True}), "m")
    raw = [frame(orjson.dumps({"id": "x", "model": "theirs", **text(f" {number}")})) for number in range(20)]
    for one in raw[:2]:
        decoder.feed(one)
    monkeypatch.setattr(type(decoder), "_read_chunk", None)
    assert all(b'"model":"m"' in decoder.feed(one) for one in raw[2:])
    assert decoder.failure is None


def call(name: str) -> Json:
    return choice(
        tool_calls=[{"index": 0, "id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}]
    )


@pytest.mark.parametrize(
    ("frames", "ok"),
    [
        ([call("see"), choice("tool_calls")], True),
        ([call("look"), choice("tool_calls")], False),
        ([text("Fine"), choice("stop")], False),
        ([text("Fine"), choice("length")], False),
    ],
)
def test_forced_call_must_be_in_the_stream(frames: list[Json], ok: bool) -> None:
    got = decoded(ROLE, *frames, DONE, tool_choice=NAMED)
    assert isinstance(got, list) if ok else isinstance(got, Failure) and got.kind is FailureKind.UNSUPPORTED


@pytest.mark.parametrize("broken", [{"choices": [7]}, {"choices": {"a": 1}}, {"choices": [{"index": 0, "delta": 7}]}])
def test_frames_that_are_none_are_failures_of_the_server(broken: Json) -> None:
    got = decoded(ROLE, broken)
    assert isinstance(got, Failure)
    assert got.kind is FailureKind.ENGINE


def test_error_in_a_stream_is_an_error() -> None:
    got = decoded(ROLE, {"error": {"code": 500, "message": "out of memory"}})
    assert isinstance(got, Failure)
    assert got.message == "out of memory"
