from typing import Any

import pytest

from berth.sim.body_validation import InvalidError, RejectionError
from berth.sim.dialect import Route
from berth.sim.vllm.requests import VllmParser
from tests.sim.harness import CHAT, setup

TOOL = {"type": "function", "function": {"name": "f"}}


def parser(**changes: Any) -> VllmParser:
    return VllmParser(setup("vllm", context=64, **changes))


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"model": "nope"}, "model", "The model `nope` does not exist."),
        ({"structured_outputs": {"regex": "[("}}, None, "Grammar error: invalid regex"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "g"}}}, "tool_choice", "does not match any"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "input_tokens", "at least 65 input tokens"),
        ({"max_completion_tokens": 65}, "max_completion_tokens", "cannot be greater than max_model_len=64"),
        ({"tools": []}, "tools", "`tools` must not be an empty array"),
        ({"tools": [], "tool_choice": "none"}, "tools", "`tools` must not be an empty array"),
        ({"tool_choice": "auto"}, "tool_choice", "`tools` must be set"),
        ({"temperature": 2.01}, "temperature", r"temperature must be in \[0, 2\], got 2.01"),
        ({"temperature": 0, "n": 2}, None, "n must be 1 when using greedy sampling, got 2"),
        ({"stop": ""}, None, "stop cannot contain an empty string"),
        ({"stop": ["a", ""]}, None, "stop cannot contain an empty string"),
        ({"bad_words": [""]}, None, "bad_words cannot contain an empty string"),
        ({"repetition_penalty": 0}, None, "repetition_penalty must be greater than zero, got 0.0"),
        ({"min_tokens": 5, "max_tokens": 4}, None, "min_tokens must be less than or equal to max_tokens=4, got 5"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", r"token_id\(s\) \[-1\] in logit_bias"),
    ],
)
def test_rejects_chats_with_the_engines_messages(changes: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(RejectionError, match=message) as error:
        parser().parse_generation(Route.CHAT, {**CHAT, **changes}, {})
    assert error.value.param == param


def test_completions_have_no_suffix_and_few_stop_strings() -> None:
    with pytest.raises(RejectionError, match="suffix is only supported"):
        parser().parse_generation(Route.COMPLETION, {"prompt": "x", "suffix": ""}, {})
    with pytest.raises(InvalidError):
        parser().parse_generation(Route.COMPLETION, {"prompt": "x", "stop": list("abcde")}, {})


def test_rejects_prompts_with_too_many_characters() -> None:
    with pytest.raises(RejectionError, match=r"5000 characters \(more than 1152 characters, which is the upper"):
        parser().parse_generation(Route.COMPLETION, {"prompt": "x" * 5000}, {})


@pytest.mark.parametrize(
    ("body", "headers", "request_id"),
    [
        ({}, {}, ""),
        ({}, {"x-request-id": "from-header"}, "from-header"),
        ({"request_id": "from-body"}, {"x-request-id": "from-header"}, "from-body"),
    ],
)
def test_client_can_set_the_request_id(body: dict[str, Any], headers: dict[str, str], request_id: str) -> None:
    assert parser().parse_generation(Route.CHAT, {**CHAT, **body}, headers).request_id == request_id


@pytest.mark.parametrize(
    ("body", "forced_text"),
    [
        ({"response_format": {"type": "json_object"}}, "{}"),
        ({"structured_outputs": {"json_object": True}}, "{}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes"),
        ({"guided_choice": ["yes", "no"]}, None),
        ({"tools": [TOOL], "tool_choice": "none"}, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
        ({"tools": [TOOL], "tool_choice": "none", "messages": [{"role": "tool", "content": "1"}]}, None),
    ],
)
def test_structured_output_forces_the_text(body: dict[str, Any], forced_text: str | None) -> None:
    assert parser().parse_generation(Route.CHAT, {**CHAT, **body}, {}).forced_text == forced_text


def test_clamps_max_tokens_to_the_context() -> None:
    request = parser().parse_generation(Route.COMPLETION, {"prompt": "The night", "max_tokens": 64}, {})
    assert (request.max_tokens, request.continues) == (62, ("The night",))


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "x"},
        {**CHAT, "stop": list("abcde")},
        {**CHAT, "thinking_token_budget": "x"},
        {**CHAT, "seed": 2**63},
        {**CHAT, "ignore_eos": None},
        {**CHAT, "include_stop_str_in_output": None},
        {**CHAT, "skip_special_tokens": None},
    ],
)
def test_rejects_invalid_shapes(body: Any) -> None:
    with pytest.raises(InvalidError):
        parser().parse_generation(Route.CHAT, body, {})


def test_thinking_budget_limits_reasoning_tokens() -> None:
    body = {**CHAT, "thinking_token_budget": -1, "chat_template_kwargs": {"enable_thinking": True}}
    assert parser().parse_generation(Route.CHAT, body, {}).max_reasoning_tokens == 0
