from typing import Any

import pytest

from berth.sim.body_validation import InvalidError, RefusalError
from berth.sim.dialect import Route
from berth.sim.vllm.requests import VllmReader
from tests.sim.harness import CHAT, setup

TOOL = {"type": "function", "function": {"name": "f"}}


def reader(**changes: Any) -> VllmReader:
    return VllmReader(setup("vllm", context=64, **changes))


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
def test_a_chat_is_refused_with_the_engines_words(changes: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(RefusalError, match=message) as error:
        reader().ask(Route.CHAT, {**CHAT, **changes}, {})
    assert error.value.param == param


def test_a_prompt_of_too_many_characters_is_not_even_tokenised() -> None:
    with pytest.raises(RefusalError, match=r"5000 characters \(more than 1152 characters, which is the upper"):
        reader().ask(Route.COMPLETION, {"prompt": "x" * 5000}, {})


@pytest.mark.parametrize(
    ("body", "headers", "request_id"),
    [
        ({}, {}, ""),
        ({}, {"x-request-id": "from-header"}, "from-header"),
        ({"request_id": "from-body"}, {"x-request-id": "from-header"}, "from-body"),
    ],
)
def test_the_client_can_name_its_request(body: dict[str, Any], headers: dict[str, str], request_id: str) -> None:
    assert reader().ask(Route.CHAT, {**CHAT, **body}, headers).request_id == request_id


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"response_format": {"type": "json_object"}}, "{}"),
        ({"structured_outputs": {"json_object": True}}, "{}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes"),
        ({"guided_choice": ["yes", "no"]}, None),
        ({"tools": [TOOL], "tool_choice": "none"}, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
        ({"tools": [TOOL], "tool_choice": "none", "messages": [{"role": "tool", "content": "1"}]}, None),
    ],
)
def test_what_the_request_makes_it_say(body: dict[str, Any], says: str | None) -> None:
    assert reader().ask(Route.CHAT, {**CHAT, **body}, {}).says == says


def test_a_long_request_is_clamped_to_the_context() -> None:
    ask = reader().ask(Route.COMPLETION, {"prompt": "The night", "max_tokens": 64}, {})
    assert (ask.max_tokens, ask.continues) == (62, ("The night",))


@pytest.mark.parametrize(
    "body", [{"messages": "x"}, {**CHAT, "stop": list("abcde")}, {**CHAT, "thinking_token_budget": "x"}]
)
def test_a_wrong_shape_is_invalid(body: Any) -> None:
    with pytest.raises(InvalidError):
        reader().ask(Route.CHAT, body, {})


def test_a_budget_bounds_the_thoughts() -> None:
    body = {**CHAT, "thinking_token_budget": -1, "chat_template_kwargs": {"enable_thinking": True}}
    assert reader().ask(Route.CHAT, body, {}).most_thoughts == 0
