import itertools
from typing import Any

import ollama
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.apis.ollama.response import CHAT, GENERATE, response_body
from berth.apis.ollama.stream import OllamaStream
from berth.canonical import Json, Operation
from berth.errors import UpstreamError
from berth.sse import DONE, comment
from tests.apis.ollama.judge import (
    USAGE,
    call_frame,
    encoder,
    ending,
    frame,
    heard,
    heard_generated,
    joined,
    lines,
    text_frame,
    timed,
    usage_frame,
)

ROLE = frame(role="assistant", content="")
PERHAPS_LINES = "a\u2028b\u2029c\x85d\ne\x0bf\x1c"  # all that str.splitlines cuts at


def test_stream_has_one_line_per_token_and_a_last_one() -> None:
    stream = encoder()
    feeds = [ROLE, frame(content="Hel"), frame(content="lo"), frame("length"), usage_frame(), DONE]

    written = [stream.feed(feed) for feed in feeds]

    assert [data.count(b"\n") for data in written] == [0, 1, 1, 0, 0, 1]
    parts = [orjson.loads(data) for data in written if data]
    assert [part["message"]["content"] for part in parts] == ["Hel", "lo", ""]
    assert [part["done"] for part in parts] == [False, False, True]
    assert {part["model"] for part in parts} == {"m:latest"}
    assert (parts[-1]["done_reason"], parts[-1]["prompt_eval_count"], parts[-1]["eval_count"]) == ("length", 3, 5)


def test_durations_add_up() -> None:
    stream = encoder()
    *_, end = lines(stream.feed(ROLE + frame(content="a") + ending()))

    assert end["prompt_eval_duration"] > 0
    assert end["prompt_eval_duration"] + end["eval_duration"] == end["total_duration"]
    assert end["load_duration"] == 0


def test_template_and_parser_write_the_same_bytes() -> None:
    texts = ["a", " token", 'with "quotes"', "back\\slash", "\n", PERHAPS_LINES, "", "ü", "<&>"]
    quick = encoder()
    quick.feed(frame(content="learn"))

    for text in texts:
        parsed = lines(encoder().feed(frame(content=text)) or b"{}\n")[0]
        templateed = lines(quick.feed(frame(content=text)) or b"{}\n")[0]
        assert templateed.pop("created_at", "") >= parsed.pop("created_at", "")
        assert templateed == parsed


def test_frame_without_text_makes_no_part() -> None:
    stream = encoder()
    stream.feed(frame(content="learn"))

    assert stream.feed(frame(content="")) == stream.feed(ROLE) == b""


def test_accepts_many_frames_and_comments_at_once() -> None:
    frames = b"".join(frame(content=str(number)) for number in range(20))
    written = encoder().feed(comment("berth moved a -> b at token 7") + frames + comment("x") + ending())

    assert joined(heard(written))["content"] == "".join(map(str, range(20)))


def test_thinking_has_a_field_of_its_own() -> None:
    both = {"reasoning": "2+2", "reasoning_content": "2+2"}
    stream = encoder()
    stream.feed(frame(content="x"))

    parts = lines(stream.feed(frame(**both) + frame(content="4", **both)))

    assert parts[0]["message"] == {"role": "assistant", "content": "", "thinking": "2+2"}
    assert parts[1]["message"] == {"role": "assistant", "content": "4", "thinking": "2+2"}


def test_interleaved_tool_calls_are_sent_complete_in_one_part() -> None:
    stream = encoder()
    before = stream.feed(
        frame(content="Let me look.")
        + call_frame((0, "weather", ""), (0, None, '{"ci'))
        + call_frame((1, "time", '{"utc":'))
        + call_frame((0, None, 'ty":"Paris"}'), (1, None, "true}"))
    )
    after = stream.feed(ending("tool_calls"))

    assert before.count(b"\n") == 1
    calls, end = lines(after)
    assert [call["function"] for call in calls["message"]["tool_calls"]] == [
        {"index": 0, "name": "weather", "arguments": {"city": "Paris"}},
        {"index": 1, "name": "time", "arguments": {"utc": True}},
    ]
    assert [call["id"] for call in calls["message"]["tool_calls"]] == ["c0", "c1"]
    assert (calls["done"], end["done"], end["done_reason"]) == (False, True, "stop")


def test_truncated_tool_call_becomes_text() -> None:
    written = encoder().feed(call_frame((0, "weather", '{"city": "Par')) + ending("length"))

    said = joined(heard(written))
    assert said["content"] == '{"name": "weather", "arguments": {"city": "Par}'
    assert (said["tool_calls"], said["end"]["done_reason"]) == ([], "length")


def test_generate_stream_is_flat() -> None:
    stream = encoder(GENERATE)
    written = stream.feed(ROLE + frame(content="a") + frame(content="b", reasoning="c")) + stream.feed(ending())

    parts = heard_generated(written)
    assert [(part.response, part.thinking, part.done) for part in parts] == [
        *(("a", None, False), ("b", "c", False), ("", None, True)),
    ]


def test_translates_a_completion_stream() -> None:
    stream = encoder(GENERATE, Operation.COMPLETION)
    written = b"".join(stream.feed(text_frame(text)) for text in ("a", "b", "c"))
    written += stream.feed(text_frame("", "length") + usage_frame() + DONE)

    parts = heard_generated(written)
    assert "".join(part.response or "" for part in parts) == "abc"
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("length", 5)


def test_logprobs_are_sent_with_their_token() -> None:
    stream = encoder()
    shown = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}

    parts = lines(stream.feed(frame(content="a", logprobs=shown) + frame(content="a", logprobs=shown)))

    assert [part["logprobs"] for part in parts] == [[{"token": "a", "logprob": -0.5, "bytes": [97]}]] * 2


def test_stream_without_usage_and_finish_reason_ends_once() -> None:
    stream = encoder()

    (end,) = lines(stream.feed(DONE))

    assert (end["done"], end["done_reason"], end["prompt_eval_count"], end["eval_count"]) == (True, "stop", 0, 0)
    assert end["eval_duration"] > 0
    assert stream.feed(frame(content="late") + DONE) == b""
    assert stream.heartbeat("late") == stream.fail(UpstreamError("late")) == b""


@pytest.mark.parametrize("before", [b"", ROLE, frame(content="a"), call_frame((0, "f", "{"))])
def test_failed_stream_ends_with_an_error_that_clients_raise(before: bytes) -> None:
    stream = encoder()
    written = stream.feed(before) + stream.fail(UpstreamError("The engine has died.\u2028"))

    with pytest.raises(ollama.ResponseError, match="The engine has died"):
        heard(written)
    assert lines(written)[-1] == {"error": "The engine has died.\u2028"}


@pytest.mark.parametrize("shape", [CHAT, GENERATE])
def test_heartbeat_is_a_part_without_text(shape: Any) -> None:
    stream = encoder(shape)
    beats = stream.heartbeat("queued, position 1")
    written = beats + stream.feed(frame(content="a")) + stream.heartbeat("") + stream.feed(ending())

    first = lines(beats)[0]
    assert (first["done"], "done_reason" in first) == (False, False)
    parts = heard(written) if shape is CHAT else heard_generated(written)
    assert [part.done for part in parts] == [False, False, False, True]


def test_escapes_any_model_name() -> None:
    request = timed(model='a"b\u2028c')
    written = response_body(request, CHAT, orjson.dumps({"choices": [{"message": {"content": "x"}}]}))

    assert orjson.loads(written)["model"] == request.model
    assert lines(OllamaStream(request, CHAT).feed(frame(content="a")))[0]["model"] == request.model


TEXTS = st.lists(st.text(max_size=8) | st.sampled_from([PERHAPS_LINES, '"', "\\", " token"]), max_size=6)
CALLS = st.lists(
    st.tuples(
        st.text(min_size=1, max_size=5),
        st.dictionaries(st.text(max_size=4), st.integers(-9, 9) | st.text(max_size=4), max_size=3),
        st.integers(1, 4),
    ),
    max_size=3,
)


def pieces(text: str, number: int) -> list[str]:
    size = max(1, -(-len(text) // number))
    return [text[at : at + size] for at in range(0, len(text), size)]


def call_frames(index: int, name: str, arguments: str, number: int) -> list[bytes]:
    return [call_frame((index, name, ""))] + [call_frame((index, None, piece)) for piece in pieces(arguments, number)]


def merged(data: st.DataObject, rows: list[list[bytes]]) -> list[bytes]:
    """In any order that keeps that of each row."""
    order = [number for number, row in enumerate(rows) for _ in row]
    rest = [iter(row) for row in rows]
    return [next(rest[number]) for number in data.draw(st.permutations(order))]


def in_feeds(data: st.DataObject, frames: list[bytes]) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(frames) - 1)))))
    return [b"".join(frames[start:end]) for start, end in itertools.pairwise([0, *cuts, len(frames)])]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), texts=TEXTS, thoughts=TEXTS, calls=CALLS, finish=st.sampled_from(["stop", "length"]))
def test_any_stream_equals_the_non_streaming_response(
    data: st.DataObject, texts: list[str], thoughts: list[str], calls: list[tuple[str, Json, int]], finish: str
) -> None:
    written_calls = [(name, orjson.dumps(arguments).decode(), number) for name, arguments, number in calls]
    rows = [
        [frame(content=text) for text in texts],
        [frame(reasoning=text, reasoning_content=text) for text in thoughts],
        *(call_frames(index, *call) for index, call in enumerate(written_calls)),
        [comment("x")],
    ]
    frames = [ROLE, *merged(data, rows), frame(finish), usage_frame(), DONE]
    stream = encoder()

    written = b"".join(stream.feed(feed) for feed in in_feeds(data, frames))

    for line in lines(written):
        ollama.ChatResponse.model_validate(line, strict=True)
    assert [line["done"] for line in lines(written)].count(True) == 1
    answer = ollama.ChatResponse.model_validate_json(whole(texts, thoughts, written_calls, finish))
    assert joined(heard(written)) == joined([answer])


def whole(texts: list[str], thoughts: list[str], calls: list[tuple[str, str, int]], finish: str) -> bytes:
    made = [
        {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments, _) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": "".join(texts), "reasoning": "".join(thoughts), "tool_calls": made}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return response_body(timed(), CHAT, orjson.dumps({"choices": [choice], "usage": USAGE}))
