import time
from typing import Any

import orjson
import pytest

from berth.apis.anthropic.endpoints import AnthropicMessages
from berth.canonical import Json
from berth.errors import OverloadedError, UpstreamError
from berth.sse import DONE, comment
from tests.apis.anthropic.judge import (
    call,
    check_order,
    chunk,
    encoded,
    end,
    events,
    message,
    more,
    parse,
    reasoning,
    text,
    usage,
)

LONG = "mcp__" + "a_server_with_a_very_long_name__" * 2 + "tool"


def blocks(*frames: bytes, **fields: Any) -> list[Json]:
    """The content of the client's message."""
    content: list[Json] = message(encoded(frames, **fields))["content"]
    return content


def test_text_makes_one_block() -> None:
    found = message(encoded([chunk({"role": "assistant", "content": ""}), text("Hel"), text("lo"), end()]))

    assert found["content"] == [{"type": "text", "text": "Hello"}]
    assert (found["id"], found["model"], found["role"]) == ("msg_1", "m", "assistant")
    assert (found["stop_reason"], found["stop_sequence"]) == ("end_turn", None)
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (7, 5)


def test_events_have_anthropics_order() -> None:
    stream = encoded([chunk({"role": "assistant", "content": ""}), text("Hello"), end()])

    assert stream.startswith(b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1",')
    assert [event["type"] for event in events(stream)] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_message_starts_with_the_first_frame() -> None:
    encoder = AnthropicMessages().stream(parse(stream=True))

    assert encoder.feed(comment("waiting")) == b""
    assert b"message_start" in encoder.feed(chunk({"role": "assistant", "content": ""}))
    assert encoder.feed(text("a")).count(b"event: ") == 2


def test_template_and_parser_write_the_same_bytes() -> None:
    pieces = ["a", "", "b\\n", "ü🦊", "", 'c"d', "e\\", "f"]
    frames = [chunk({"role": "assistant", "content": ""}), *map(text, pieces)]

    one_by_one = encoded([*frames, end()])
    together = encoded([b"".join(frames) + end()])

    assert one_by_one == together
    assert blocks(*frames, end()) == [{"type": "text", "text": "".join(pieces)}]


def test_another_engine_continues_with_other_frames() -> None:
    other = text("c").replace(b'"logprobs":null,', b"")

    assert blocks(text("a"), text("b"), comment("moved"), other, other, end()) == [{"type": "text", "text": "abcc"}]


def test_frames_that_never_match_a_template_are_parsed() -> None:
    frames = [text("x").replace(b'"created":1', b'"created":%d' % number) for number in range(40)]

    assert blocks(*frames, end()) == [{"type": "text", "text": "x" * 40}]


def test_reasoning_is_a_block_of_its_own_with_a_signature() -> None:
    thinking, said = blocks(reasoning("Let me"), reasoning(" see."), text("Yes."), end())

    assert (thinking["type"], thinking["thinking"], said["text"]) == ("thinking", "Let me see.", "Yes.")
    assert len(thinking["signature"]) == 64


def test_omitted_thinking_has_only_a_signature() -> None:
    thinking, said = blocks(reasoning("Hm."), text("Yes."), end(), thinking={"type": "adaptive", "display": "omitted"})

    assert (thinking["thinking"], said["text"]) == ("", "Yes.")
    assert thinking["signature"]


def test_alternating_text_and_reasoning_never_share_a_block() -> None:
    found = blocks(text("a"), reasoning("b"), text("c"), reasoning("d"), end())

    assert [block.get("text") or block["thinking"] for block in found] == ["a", "b", "c", "d"]


def test_reasoning_and_text_in_one_frame_are_two_blocks() -> None:
    both = chunk({"reasoning": "a", "reasoning_content": "a", "content": "b"})

    assert [block["type"] for block in blocks(both, text("c"), end())] == ["thinking", "text"]


@pytest.mark.parametrize("space", ["\n\n", " ", "\t"])
def test_white_space_alone_makes_no_block(space: str) -> None:
    assert [b["type"] for b in blocks(reasoning("a"), text(space), call(0, "f", "{}"), end())] == [
        "thinking",
        "tool_use",
    ]
    assert blocks(text(space), end()) == []


def test_white_space_before_text_belongs_to_it() -> None:
    found = blocks(reasoning("a"), text("\n"), text("\n"), text("b"), text("\n"), end())

    assert found[1:] == [{"type": "text", "text": "\n\nb\n"}]


def test_streams_the_input_of_a_call() -> None:
    stream = encoded([call(0, "f"), more(0, '{"a"'), more(0, ': "b"}'), end("tool_calls")], tools=[TOOL])

    assert partial_json(stream) == ['{"a"', ': "b"}']
    found = message(stream)
    assert found["content"] == [{"type": "tool_use", "id": "c0", "name": "f", "input": {"a": "b"}}]
    assert found["stop_reason"] == "tool_use"


TOOL: Json = {"name": "f", "input_schema": {"type": "object"}}


def partial_json(stream: bytes) -> list[str]:
    deltas = [event["delta"] for event in events(stream) if event["type"] == "content_block_delta"]
    return [delta["partial_json"] for delta in deltas if "partial_json" in delta]


def test_the_first_arguments_may_come_with_the_name() -> None:
    stream = encoded([call(0, "f", '{"a":1}'), end("tool_calls")])

    assert partial_json(stream) == ['{"a":1}']
    assert events(stream)[1]["content_block"]["input"] == {}


def test_an_id_in_every_delta_opens_no_new_block() -> None:
    frames = [call(0, "f", '{"a"', call_id="c"), call(0, "f", ":1}", call_id="c")]

    assert blocks(*frames, end("tool_calls")) == [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]


def test_two_deltas_of_one_call_may_come_in_one_frame() -> None:
    begun = {"id": "c0", "type": "function", "index": 0, "function": {"name": "f", "arguments": ""}}
    both = chunk({"content": None, "tool_calls": [begun, {"index": 0, "function": {"arguments": '{"a":1}'}}]})

    assert blocks(both, end("tool_calls"))[0]["input"] == {"a": 1}


@pytest.mark.parametrize("arguments", ["", "  ", "null", "{}"])
def test_a_call_without_arguments_has_an_empty_input_in_a_delta(arguments: str) -> None:
    stream = encoded([call(0, "f"), more(0, arguments), end("tool_calls")])

    assert partial_json(stream) == ["{}"]
    assert (message(stream)["content"][0]["input"], message(stream)["stop_reason"]) == ({}, "tool_use")


def test_streams_consecutive_calls() -> None:
    encoder = AnthropicMessages().stream(parse(stream=True))
    encoder.feed(call(0, "f", '{"a":1}'))

    assert encoder.feed(call(1, "g")).count(b"event: ") == 1  # the end of the first
    assert encoder.feed(more(1, '{"b"')).count(b"event: ") == 2  # the start of the second, and its input


def test_interleaved_calls_become_consecutive_blocks() -> None:
    frames = [call(0, "f"), call(1, "g"), more(0, '{"a"'), more(1, '{"b":'), more(0, ":1}"), more(1, "2}")]

    found = blocks(*frames, end("tool_calls"))

    assert [(block["name"], block["input"]) for block in found] == [("f", {"a": 1}), ("g", {"b": 2})]


def test_unfinished_call_holds_back_what_follows() -> None:
    frames = [call(0, "f", '{"a'), call(1, "g", "{}"), text("done"), reasoning("hm"), more(0, '":1}')]

    found = blocks(*frames, end("tool_calls"))

    assert [block["type"] for block in found] == ["tool_use", "tool_use", "text", "thinking"]
    assert found[0]["input"] == {"a": 1}


def test_text_after_complete_calls_is_sent_at_once() -> None:
    frames = [call(0, "f", "{}"), text("done"), text("!"), call(1, "g", "{}")]

    found = blocks(*frames, end("tool_calls"))

    assert [block.get("text") or block["name"] for block in found] == ["f", "done!", "g"]


def test_drops_input_for_a_finished_call() -> None:
    found = blocks(call(0, "f", "{}"), call(1, "g", "{}"), more(0, " "), end("tool_calls"))

    assert [block["input"] for block in found] == [{}, {}]


def test_truncated_arguments_stay_truncated() -> None:
    stream = encoded([call(0, "f", '{"path": "/et'), end("length")])

    assert partial_json(stream) == ['{"path": "/et']
    assert message(stream)["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("arguments", ["0.0", "[1]", '"text"', "nonsense"])
def test_arguments_that_are_not_an_object_become_text(arguments: str) -> None:
    found = message(encoded([text("a"), call(0, "f"), more(0, arguments), call(1, "g", "{}"), end("tool_calls")]))

    texts = [block.get("text") for block in found["content"]]
    assert texts == ["a", f'{{"name": "f", "arguments": {arguments}}}', None]
    assert found["stop_reason"] == "tool_use"


@pytest.mark.parametrize("arguments", ['{"path": "/et', "{'a': 1}", '{"a":1}}'])
def test_broken_arguments_that_were_sent_end_the_stream_with_an_error(arguments: str) -> None:
    stream = encoded([call(0, "f", arguments), end("tool_calls")])

    assert events(stream)[-1]["error"]["message"] == "The model called 'f' with arguments that are not a JSON object."
    assert b"message_stop" not in stream


@pytest.mark.parametrize("after", [text("x"), call(1, "g", "{}")])
def test_time_for_a_call_in_many_pieces_is_linear(after: bytes) -> None:
    def took(pieces: int) -> float:
        encoder = AnthropicMessages().stream(parse(stream=True))
        encoder.feed(call(0, "f", '{"a":[') + after)
        frames = [more(0, "{},"), after]
        begun = time.process_time()
        for number in range(pieces):
            encoder.feed(frames[number % 2])
        return time.process_time() - begun

    assert min(took(4000) for _ in range(3)) < 2.5 * min(took(2000) for _ in range(3))


def test_a_call_without_an_id_gets_one() -> None:
    begun = {"type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}

    assert blocks(chunk({"tool_calls": [begun]}), end("tool_calls"))[0]["id"] == "toolu_1_0"


def test_restores_a_long_tool_name() -> None:
    request = parse(stream=True, tools=[{"name": LONG, "input_schema": {}}])
    short = request.body["tools"][0]["function"]["name"]
    encoder = AnthropicMessages().stream(request)

    stream = encoder.feed(call(0, short, "{}") + end("tool_calls"))

    assert len(short) == 64
    assert message(stream)["content"][0]["name"] == LONG


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ({"finish_reason": "stop"}, ("end_turn", None)),
        ({"finish_reason": "stop", "stop_reason": 2}, ("end_turn", None)),
        ({"finish_reason": "stop", "stop_reason": "###"}, ("stop_sequence", "###")),
        ({"finish_reason": "stop", "matched_stop": "###"}, ("stop_sequence", "###")),
        ({"finish_reason": "stop", "matched_stop": "not asked for"}, ("end_turn", None)),
        ({"finish_reason": "content_filter"}, ("refusal", None)),
    ],
)
def test_translates_the_stop_reason(finish: Json, expected: tuple[str, str | None]) -> None:
    found = message(encoded([text("a"), chunk(**finish), usage(), DONE], stop_sequences=["###"]))

    assert (found["stop_reason"], found["stop_sequence"]) == expected


@pytest.mark.parametrize(
    ("tokens", "reason"), [(100, "max_tokens"), (99, "model_context_window_exceeded"), (0, "max_tokens")]
)
def test_length_below_max_tokens_means_context_window_exceeded(tokens: int, reason: str) -> None:
    found = message(encoded([text("a"), chunk(finish_reason="length"), usage(7, tokens), DONE]))

    assert found["stop_reason"] == reason


def test_cached_tokens_are_counted_separately() -> None:
    counts = usage(
        100, 20, prompt_tokens_details={"cached_tokens": 64}, completion_tokens_details={"reasoning_tokens": 8}
    )

    found = message(encoded([text("a"), chunk(finish_reason="stop"), counts, DONE]))

    assert found["usage"] == {
        "input_tokens": 36,
        "output_tokens": 20,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 64,
        "output_tokens_details": {"thinking_tokens": 8},
    }


def test_missing_usage_counts_as_zero() -> None:
    found = message(encoded([text("a"), chunk(finish_reason="stop"), DONE]))

    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (0, 0)


def test_empty_response_is_a_message() -> None:
    found = message(encoded([end()]))

    assert (found["content"], found["stop_reason"]) == ([], "end_turn")
    assert message(encoded([DONE]))["content"] == []


def test_nothing_follows_the_end() -> None:
    encoder = AnthropicMessages().stream(parse(stream=True))
    check_order(events(encoder.feed(text("a") + end())))

    assert encoder.feed(text("b") + DONE) == b""
    assert encoder.fail(UpstreamError("late")) == b""
    assert encoder.heartbeat("late") == b""


@pytest.mark.parametrize("before", [b"", text("a"), reasoning("a"), call(0, "f", '{"a'), comment("x")])
def test_failure_ends_the_stream_with_an_error_event_in_any_state(before: bytes) -> None:
    encoder = AnthropicMessages().stream(parse(stream=True))
    encoder.feed(before)

    shown = encoder.fail(UpstreamError("lost the engine"))

    assert shown == (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"lost the engine"}}\n\n'
    )
    assert encoder.feed(text("b") + end()) == b""
    assert encoder.fail(OverloadedError("again")) == b""


def test_heartbeat_is_a_ping_in_any_state() -> None:
    encoder = AnthropicMessages().stream(parse(stream=True))
    frames = [b"", text("a"), text("b"), call(0, "f"), more(0, "{}"), end("tool_calls")]

    stream = b"".join(encoder.heartbeat("place 3 in the queue") + encoder.feed(piece) for piece in frames)

    assert stream.startswith(b': place 3 in the queue\n\nevent: ping\ndata: {"type":"ping"}\n\n')
    assert [block["type"] for block in message(stream)["content"]] == ["text", "tool_use"]


def test_message_has_the_clients_model_name() -> None:
    assert message(encoded([text("a"), end()], model="claude-sonnet"))["model"] == "claude-sonnet"


def test_data_is_json_on_one_line() -> None:
    stream = encoded([text("a\n\nb"), text("c\n"), end()])

    assert blocks(text("a\n\nb"), text("c\n"), end())[0]["text"] == "a\n\nbc\n"
    assert all(orjson.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: "))
