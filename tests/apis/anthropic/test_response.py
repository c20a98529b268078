from typing import Any

import orjson
import pytest

from berth.apis.anthropic.endpoints import AnthropicMessages
from berth.canonical import Json
from tests.apis.anthropic.judge import checked_message, parse

USAGE: Json = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
LONG = "mcp__" + "server__" * 10


def answered(
    message: Json, *, finish: str = "stop", usage: Any = USAGE, asked: Json | None = None, **choice: Any
) -> Json:
    """What the client gets, found to be one of its messages."""
    whole = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **choice}
    body = orjson.dumps({"id": "chatcmpl-1", "model": "served", "choices": [whole], "usage": usage})
    return checked_message(AnthropicMessages().response(parse(**asked or {}), body))


def call(name: str, arguments: str | None, call_id: str | None = "c") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_translates_a_message() -> None:
    assert answered({"content": "Hello"}) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "output_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


def test_blocks_are_reasoning_text_calls() -> None:
    message = {"reasoning_content": "Hm.", "content": "Let me see.", "tool_calls": [call("f", '{"a":1}')]}

    thinking, text, use = answered(message, finish="tool_calls")["content"]

    assert (thinking["thinking"], len(thinking["signature"]), text["text"]) == ("Hm.", 64, "Let me see.")
    assert use == {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}


def test_finish_reason_stop_after_a_call_is_tool_use() -> None:
    assert answered({"content": None, "tool_calls": [call("f", "{}")]})["stop_reason"] == "tool_use"


@pytest.mark.parametrize("message", [{"content": ""}, {"content": None}, {"content": "\n\n", "reasoning": "\n"}, {}])
def test_empty_text_makes_no_block(message: Json) -> None:
    assert answered(message)["content"] == []


def test_omitted_thinking_has_only_a_signature() -> None:
    asked = {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}}

    block = answered({"reasoning": "Hm.", "content": "Yes."}, asked=asked)["content"][0]

    assert block["thinking"] == ""
    assert block["signature"]


def test_restores_a_long_tool_name() -> None:
    asked = {"tools": [{"name": LONG, "input_schema": {}}]}
    short = parse(**asked).body["tools"][0]["function"]["name"]

    assert answered({"tool_calls": [call(short, "{}")]}, asked=asked)["content"][0]["name"] == LONG


@pytest.mark.parametrize("arguments", ["", None, " ", "null", "{}"])
def test_a_call_without_arguments(arguments: str | None) -> None:
    found = answered({"tool_calls": [call("f", arguments, None)]}, finish="tool_calls")

    assert found["content"] == [{"type": "tool_use", "id": "toolu_1_0", "name": "f", "input": {}}]
    assert found["stop_reason"] == "tool_use"


@pytest.mark.parametrize("arguments", ['{"path": "/et', "[1]", "0.0", "nonsense"])
def test_truncated_arguments_become_an_empty_input(arguments: str) -> None:
    found = answered({"tool_calls": [call("f", arguments)]}, finish="length")

    assert (found["content"][0]["input"], found["stop_reason"]) == ({}, "max_tokens")


@pytest.mark.parametrize("arguments", ['{"path": "/et', "[1]", "0.0", "nonsense"])
def test_arguments_that_are_no_object_become_text_and_no_claim_of_a_cut(arguments: str) -> None:
    found = answered({"tool_calls": [call("f", arguments)]}, finish="tool_calls")

    assert found["content"] == [{"type": "text", "text": f'{{"name": "f", "arguments": {arguments}}}'}]
    assert found["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("finish", "choice", "expected"),
    [
        ("stop", {"stop_reason": None}, ("end_turn", None)),
        ("stop", {"stop_reason": "###"}, ("stop_sequence", "###")),
        ("stop", {"matched_stop": "###"}, ("stop_sequence", "###")),
        ("stop", {"matched_stop": 2}, ("end_turn", None)),
        ("content_filter", {}, ("refusal", None)),
    ],
)
def test_translates_the_stop_reason(finish: str, choice: Json, expected: tuple[str, str | None]) -> None:
    found = answered({"content": "a"}, finish=finish, asked={"stop_sequences": ["###"]}, **choice)

    assert (found["stop_reason"], found["stop_sequence"]) == expected


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        ({**USAGE, "completion_tokens": 100}, "max_tokens"),
        ({**USAGE, "completion_tokens": 99}, "model_context_window_exceeded"),
        (None, "max_tokens"),
    ],
)
def test_length_below_max_tokens_means_context_window_exceeded(usage: Any, reason: str) -> None:
    assert answered({"content": "a"}, finish="length", usage=usage)["stop_reason"] == reason


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 4}}, {"input_tokens": 3, "cache_read_input_tokens": 4}),
        ({"prompt_tokens_details": {"cached_tokens": 9}}, {"input_tokens": 0, "cache_read_input_tokens": 9}),
        ({"prompt_tokens_details": None}, {"input_tokens": 7, "cache_read_input_tokens": 0}),
        ({"prompt_tokens_details": {"cached_tokens": None}}, {"input_tokens": 7}),
        ({"completion_tokens_details": {"reasoning_tokens": 3}}, {"output_tokens_details": {"thinking_tokens": 3}}),
        ({"reasoning_tokens": 3}, {"output_tokens_details": {"thinking_tokens": 3}}),
    ],
)
def test_translates_usage(details: Json, expected: Json) -> None:
    found = answered({"content": "a"}, usage={**USAGE, **details})["usage"]

    assert {name: found[name] for name in expected} == expected
