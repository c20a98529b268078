from typing import Any

import pytest

from berth.sim import common_requests
from berth.sim.body_validation import InvalidError, RejectionError
from berth.sim.generation import Tool
from tests.sim.harness import setup

WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"properties": {"city": {}}}}}
STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
TOOLS = {"messages": [{"role": "user", "content": "x"}], "tools": [WEATHER, CLOCK]}
NAMED = {"type": "function", "function": {"name": "get_time"}}


@pytest.mark.parametrize(
    ("body", "tool", "allowed"),
    [
        (TOOLS, Tool(name="get_weather", arguments='{"city": "Paris"}'), True),
        (
            {**TOOLS, "tools": [STRICT, CLOCK], "tool_choice": "required"},
            Tool(name="get_weather", arguments='{"city": "Paris"}', forced=True),
            True,
        ),
        (
            {**TOOLS, "tool_choice": "required"},
            Tool(name="get_weather", arguments='"any value"', forced=True),
            True,
        ),
        (
            {**TOOLS, "tool_choice": NAMED},
            Tool(name="get_time", arguments='"any value"', named=True, forced=True),
            True,
        ),
        ({**TOOLS, "tool_choice": "none"}, None, False),
        ({**TOOLS, "messages": [{"role": "tool", "content": "18C"}]}, None, True),
        ({"messages": []}, None, True),
    ],
)
def test_calls_the_first_or_the_named_tool(body: Any, tool: Tool | None, allowed: bool) -> None:
    assert common_requests.called_tool(body) == (tool, allowed)


def test_rejects_invalid_tools() -> None:
    wrong: list[Any] = [1, {}, {"function": {}}, {"function": {"name": 1}}]
    for tool in wrong:
        with pytest.raises(InvalidError):
            common_requests.functions({"tools": [tool]})
    with pytest.raises(RejectionError, match="Invalid type: nonsense"):
        common_requests.called_tool({"tools": [{"function": {"name": "x", "parameters": {"type": "nonsense"}}}]})


@pytest.mark.parametrize("choice", [None, "auto", {"function": {"name": 1}}, {"function": "x"}, 5])
def test_tool_choice_without_a_name_selects_no_tool(choice: Any) -> None:
    assert common_requests.chosen_tool_name({"tool_choice": choice}) is None


@pytest.mark.parametrize(
    ("reasoning", "body", "has_reasoning"),
    [
        ("off", {"chat_template_kwargs": {"enable_thinking": True}}, False),
        ("asked", {}, False),
        ("asked", {"chat_template_kwargs": {"enable_thinking": True}}, True),
        ("asked", {"reasoning_effort": "low"}, True),
        ("asked", {"reasoning_effort": "none"}, False),
        ("always", {}, True),
        ("always", {"chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
def test_reasoning_follows_options_and_request(reasoning: str, body: Any, has_reasoning: bool) -> None:
    assert common_requests.has_reasoning(setup(reasoning=reasoning), body) is has_reasoning


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2]], [[1], [2]]),
        ("", None),
        ([], None),
        (None, None),
    ],
)
def test_parses_four_forms_of_prompts(prompt: Any, prompts: Any) -> None:
    assert common_requests.prompts({"prompt": prompt}) == prompts


@pytest.mark.parametrize("prompt", [5, {"a": 1}, [None], [True], [["a"]], [[]]])
def test_rejects_other_prompts(prompt: Any) -> None:
    with pytest.raises(InvalidError):
        common_requests.prompts({"prompt": prompt})


def test_leaves_a_continued_message_open() -> None:
    made = setup()
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "One two"}]
    whole = made.tokenizer.decode(common_requests.chat_token_ids(made, messages))
    open_end = made.tokenizer.decode(common_requests.chat_token_ids(made, messages, continues=True))
    assert (whole, open_end) == ("user\nHello\nassistant\nOne two\nassistant\n", "user\nHello\nassistant\nOne two")
