"""Any canonical stream, in any pieces, equals the non-streaming response for Anthropic's client. Any request is
accepted or rejected, and accepted ones are valid for every engine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from berth import json_text
from berth.apis.anthropic.endpoints import AnthropicCountTokens, AnthropicMessages
from berth.apis.base import ApiFormat
from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Json
from berth.errors import InvalidRequestError
from berth.sse import DONE, comment
from tests.apis.anthropic.judge import (
    call,
    check_order,
    checked_message,
    chunk,
    events,
    message,
    more,
    parse,
    reasoning,
    text,
    usage,
)

WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
SAID = st.lists(WORDS, max_size=4).map(lambda words: [word for word in words if word])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(WORDS, JSON, max_size=3).map(lambda value: orjson.dumps(value).decode())


@dataclass(frozen=True)
class Said:
    reasoning: list[str]
    text: list[str]
    calls: list[list[str]]  # the pieces of each call's arguments
    finish: str
    order: list[int]  # which call the next piece is of


@st.composite
def answers(draw: st.DrawFn) -> Said:
    calls = [pieces(draw, arguments) for arguments in draw(st.lists(ARGUMENTS, max_size=3))]
    turns = [index for index, parts in enumerate(calls) for _ in parts]
    return Said(
        reasoning=draw(SAID),
        text=draw(SAID),
        calls=calls,
        finish=draw(st.sampled_from(["stop", "tool_calls", "length", "content_filter"])),
        order=draw(st.permutations(turns)),
    )


def pieces(draw: st.DrawFn, value: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(value) - 1)), max_size=3)))
    return [value[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(value)], strict=True)]


def streamed(said: Said) -> list[bytes]:
    frames = [chunk({"role": "assistant", "content": ""}), *map(reasoning, said.reasoning), *map(text, said.text)]
    waiting = [list(parts) for parts in said.calls]
    begun: set[int] = set()
    for index in said.order:
        if index not in begun:
            frames.append(call(index, f"f{index}"))
            begun.add(index)
        frames.append(more(index, waiting[index].pop(0)))
    return [*frames, chunk(finish_reason=said.finish), usage(), DONE]


def whole(said: Said) -> bytes:
    order = list(dict.fromkeys(said.order))
    calls = [
        {
            "id": f"c{index}",
            "type": "function",
            "function": {"name": f"f{index}", "arguments": "".join(said.calls[index])},
        }
        for index in order
    ]
    answer: Json = {"role": "assistant", "content": "".join(said.text), "reasoning": "".join(said.reasoning)}
    choice = {"index": 0, "message": answer | ({"tool_calls": calls} if calls else {}), "finish_reason": said.finish}
    counts = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return orjson.dumps({"id": "chatcmpl-1", "choices": [choice], "usage": counts})


@given(answers(), st.lists(st.integers(1, 4), min_size=1), st.booleans())
def test_any_stream_equals_the_non_streaming_message(said: Said, sizes: list[int], beating: bool) -> None:
    encoder = AnthropicMessages().stream(parse(stream=True))
    frames = streamed(said)
    stream = b""
    for place in range(len(frames)):
        size = sizes[place % len(sizes)]
        piece, frames = b"".join(frames[:size]), frames[size:]
        stream += encoder.heartbeat("x") if beating else b""
        stream += encoder.feed(piece)
    expected = checked_message(AnthropicMessages().response(parse(), whole(said)))

    assert message(stream) == expected


FRAME: st.SearchStrategy[bytes] = st.one_of(
    st.just(comment("x")),
    st.builds(text, WORDS),
    st.builds(reasoning, WORDS),
    st.builds(call, st.integers(0, 3), st.sampled_from(["f", "g"]), WORDS | ARGUMENTS),
    st.builds(more, st.integers(0, 3), WORDS | ARGUMENTS),
    st.builds(lambda a, b: chunk({"content": a, "reasoning": b}), WORDS, WORDS),
)


@given(st.lists(FRAME), st.sampled_from(["stop", "length", "tool_calls"]))
def test_event_order_is_valid_for_any_engine_output(frames: list[bytes], finish: str) -> None:
    encoder = AnthropicMessages().stream(parse(stream=True))
    stream = b"".join(encoder.feed(piece) for piece in [*frames, chunk(finish_reason=finish), DONE])

    check_order(events(stream))


BLOCKS: Json = {
    "model": "m",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}],
    "temperature": 0.5,
    "top_k": 3,
    "stop_sequences": ["###"],
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}, {"type": "web_search_20250305"}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "metadata": {"user_id": "u"},
    "messages": [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "text", "text": "Yes?"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c",
                    "is_error": True,
                    "content": [
                        {"type": "text", "text": "no"},
                        {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}},
                    ],
                },
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
                {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "r"}]},
            ],
        },
        {"role": "system", "content": "Now in English."},
    ],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy with another value at the path."""
    if not path:
        return change(value)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    copy = {key: changed(item, path[1:], change) if key == path[0] else item for key, item in items}
    return copy if isinstance(value, dict) else list(copy.values())


def judge(api: ApiFormat, body: bytes) -> None:
    """Read or refused, nothing else; and what is read OpenAI's rules accept."""
    try:
        request = api.parse(body)
    except InvalidRequestError:
        return
    assert isinstance(request, InferenceRequest)
    OpenaiChat().parse(json_text.dumps(request.body))
    assert all(name.isascii() and name.isprintable() for name in request.ignored)


@given(st.sampled_from([AnthropicMessages(), AnthropicCountTokens()]), st.sampled_from(places(BLOCKS)), JSON)
def test_any_value_in_any_place_is_accepted_or_rejected(api: ApiFormat, path: tuple[Any, ...], value: Any) -> None:
    judge(api, orjson.dumps(changed(BLOCKS, path, lambda _: value)))


@given(st.sampled_from(places(BLOCKS)[1:]), st.sampled_from(places(BLOCKS)))
def test_swapped_parts_are_accepted_or_rejected(path: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    moved = BLOCKS
    for key in other:
        moved = moved[key]
    judge(AnthropicMessages(), orjson.dumps(changed(BLOCKS, path, lambda _: moved)))


@given(st.binary() | JSON.map(orjson.dumps))
def test_any_bytes_are_accepted_or_rejected(body: bytes) -> None:
    judge(AnthropicMessages(), body)
    judge(AnthropicCountTokens(), body)
