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
    ],
)
def test_rejects_chats_with_the_engines_messages(changes: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(RejectionError, match=message) as error:
        parser().parse_generation(Route.CHAT, {**CHAT, **changes}, {})
    assert error.value.param == param


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
    "body", [{"messages": "x"}, {**CHAT, "stop": list("abcde")}, {**CHAT, "thinking_token_budget": "x"}]
)
def test_rejects_invalid_shapes(body: Any) -> None:
    with pytest.raises(InvalidError):
        parser().parse_generation(Route.CHAT, body, {})


def test_thinking_budget_limits_reasoning_tokens() -> None:
    body = {**CHAT, "thinking_token_budget": -1, "chat_template_kwargs": {"enable_thinking": True}}
    assert parser().parse_generation(Route.CHAT, body, {}).max_reasoning_tokens == 0
