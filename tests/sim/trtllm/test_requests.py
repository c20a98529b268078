from typing import Any

import pytest

from berth.sim.body_validation import InvalidError, RejectionError
from berth.sim.dialect import Route
from berth.sim.generation import Tool
from berth.sim.trtllm.requests import TrtllmParser
from tests.sim.harness import CHAT, setup

TOOL = {"type": "function", "function": {"name": "f"}}


def parser(**changes: Any) -> TrtllmParser:
    return TrtllmParser(setup("trtllm", context=64, **changes))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"parallel_tool_calls": True}, ("parallel_tool_calls",)),
        ({"continue_final_message": True}, ("continue_final_message",)),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, ("stream_options", "include_obfuscation")),
        ({"tools": [{"function": {"name": "f", "strict": True}}]}, ("tools", 0, "function", "strict")),
        ({"tools": [TOOL], "tool_choice": "required"}, ("tool_choice",)),
        ({"response_format": {"type": "grammar"}}, ("response_format", "type")),
        ({"model": None}, ("model",)),
        ({"max_tokens": "x"}, ("max_tokens",)),
    ],
)
def test_rejects_unknown_fields(changes: dict[str, Any], place: tuple[str | int, ...]) -> None:
    with pytest.raises(InvalidError) as error:
        parser().parse_generation(Route.CHAT, {**CHAT, **changes}, {})
    assert error.value.place == place


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        (Route.CHAT, {**CHAT, "stream_options": {}}, "stream_options can only be set if stream is true"),
        (Route.CHAT, {**CHAT, "messages": []}, "list index out of range"),
        (Route.CHAT, {**CHAT, "tool_choice": "auto"}, "`tools` must be set"),
        (Route.CHAT, {**CHAT, "temperature": -1}, "require temperature >= 0"),
        (Route.CHAT, {**CHAT, "max_tokens": 60}, r"should not exceed max_seq_len \(64\)"),
        (Route.CHAT, {**CHAT, "response_format": {"type": "regex", "regex": "[("}}, "Failed to compile the guide"),
        (Route.COMPLETION, {"model": "m", "prompt": "x", "suffix": "y"}, "suffix is not supported"),
        (Route.COMPLETION, {"model": "m", "prompt": [99999]}, "Token ID out of range: 99999"),
    ],
)
def test_rejects_other_invalid_values(route: Route, body: dict[str, Any], message: str) -> None:
    with pytest.raises(RejectionError, match=message):
        parser().parse_generation(route, body, {})


def test_completion_requires_a_prompt() -> None:
    with pytest.raises(InvalidError):
        parser().parse_generation(Route.COMPLETION, {"model": "m"}, {})


@pytest.mark.parametrize(
    ("options", "usage", "usage_per_chunk"),
    [
        (None, False, False),
        ({}, True, True),
        ({"include_usage": False}, False, False),
        ({"continuous_usage_stats": False}, True, False),
    ],
)
def test_stream_options_enable_usage(options: Any, usage: bool, usage_per_chunk: bool) -> None:
    request = parser().parse_generation(Route.CHAT, {**CHAT, "stream": True, "stream_options": options}, {})
    assert (request.usage, request.usage_per_chunk) == (usage, usage_per_chunk)


@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"top_p": 0}, {"top_k": 1}])
def test_rejects_several_greedy_choices(greedy: Any) -> None:
    with pytest.raises(RejectionError, match="does not allow multiple returns"):
        parser().parse_generation(Route.CHAT, {**CHAT, **greedy, "n": 2}, {})
    assert parser().parse_generation(Route.CHAT, {**CHAT, **greedy, "n": 2, "use_beam_search": True}, {}).n == 2
    assert parser().parse_generation(Route.CHAT, {**CHAT, **greedy, "n": 1}, {}).n == 1


def test_named_tool_gets_the_complete_text_as_arguments() -> None:
    body = {**CHAT, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}
    raw = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert parser().parse_generation(Route.CHAT, body, {}).tool == Tool(
        name="f", arguments=raw, named=True, forced=True
    )
    assert parser(tools=False).parse_generation(Route.CHAT, body, {}).tool is None


def test_rejects_embeddings() -> None:
    with pytest.raises(RejectionError):
        parser().parse_embedding({})
