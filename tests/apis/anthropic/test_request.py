from typing import Any

import pytest

from berth.apis.anthropic.request import count_fields, message_fields
from berth.canonical import Json
from berth.errors import InvalidRequestError

HELLO: Json = {"role": "user", "content": "Hello"}
TOOL: Json = {"name": "f", "input_schema": {"type": "object"}}
BASE: Json = {"model": "m", "max_tokens": 100, "messages": [HELLO]}
LIMITS: Json = {"model": "m", "messages": [HELLO], "max_tokens": 100}
PREFILL: Json = {"messages": [HELLO, {"role": "assistant", "content": "The"}]}


def fields(**document: Any) -> Json:
    """The engine's fields besides model, messages and max_tokens."""
    body, _ = message_fields({**BASE, **document})
    return {name: value for name, value in body.items() if name not in LIMITS}


def ignored(**document: Any) -> tuple[str, ...]:
    return message_fields({**BASE, **document})[1]


def test_minimal_request() -> None:
    assert message_fields(BASE) == (LIMITS, ())


def test_sampling() -> None:
    wanted = {"temperature": 1, "top_p": 0.5, "top_k": 3}

    assert fields(**wanted, stop_sequences=["a", "b"], stream=True) == {**wanted, "stop": ["a", "b"], "stream": True}


@pytest.mark.parametrize(
    "document",
    [{"top_k": 0}, {"stop_sequences": []}, {"stream": False}, {"temperature": None}, {"metadata": None}, {"tools": []}],
)
def test_neutral_values_make_no_field(document: Json) -> None:
    assert fields(**document) == {}


def test_forwards_only_the_user_of_metadata() -> None:
    assert fields(metadata={"user_id": "u", "x": 1}) == {"user": "u"}
    assert fields(metadata={"user_id": 7}) == {}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "adaptive"}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"thinking": {"type": "between_tools"}}, {}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}},
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"},
        ),
        (
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
    ],
)
def test_thinking(document: Json, expected: Json) -> None:
    assert fields(**document) == expected


def test_prefilled_response_disables_thinking() -> None:
    body, _ = message_fields({**BASE, **PREFILL})

    assert body["continue_final_message"] is True
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["messages"][-1]["content"] == "The"


def test_prefilled_response_thinks_on_request() -> None:
    assert fields(**PREFILL, thinking={"type": "adaptive"})["chat_template_kwargs"] == {"enable_thinking": True}


@pytest.mark.parametrize(
    "document",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"output_format": {"type": "json_schema", "schema": {"type": "object"}}},
    ],
)
def test_translates_an_output_schema(document: Json) -> None:
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}

    assert fields(**document) == {"response_format": {"type": "json_schema", "json_schema": schema}}


def test_tools() -> None:
    found = fields(tools=[TOOL], tool_choice={"type": "any"})

    assert found["tool_choice"] == "required"
    assert found["tools"][0]["function"]["name"] == "f"


def test_accepts_unknown_fields() -> None:
    assert fields(some_beta={"a": 1}) == {}
    assert ignored(some_beta={"a": 1}) == ()


def test_lists_ignored_fields() -> None:
    document = {
        "service_tier": "auto",
        "container": "c",
        "mcp_servers": [],
        "context_management": {},
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}],
    }

    assert ignored(**document) == (
        *("container", "context_management", "mcp_servers", "service_tier"),
        *("thinking.budget_tokens", "tools.web_search_20250305"),
    )
    assert ignored(thinking={"type": "disabled"}, output_config={"effort": "low"}) == ("output_config.effort",)
    assert ignored(thinking={"type": "between_tools"}) == ("thinking.type",)


def test_ignored_names_are_listed_once() -> None:
    tools = [{"name": "f", "input_schema": {}}, *[{"type": "web_search_20250305", "name": "web_search"}] * 2]

    assert ignored(tools=tools) == ("tools.web_search_20250305",)


WRONG: dict[str, tuple[Json, str]] = {
    "no model": ({"model": None}, "model"),
    "no messages": ({"messages": None}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "no max_tokens": ({"max_tokens": None}, "max_tokens"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens as a string": ({"max_tokens": "5"}, "max_tokens"),
    "a negative temperature": ({"temperature": -1}, "temperature"),
    "top_p above 1": ({"top_p": 1.1}, "top_p"),
    "a negative top_k": ({"top_k": -1}, "top_k"),
    "stop as a string": ({"stop_sequences": "a"}, "stop_sequences"),
    "an empty stop": ({"stop_sequences": [""]}, "stop_sequences"),
    "stream as a string": ({"stream": "yes"}, "stream"),
    "system as an object": ({"system": {}}, "system"),
    "thinking as a boolean": ({"thinking": True}, "thinking"),
    "tools as an object": ({"tools": {}}, "tools"),
    "a tool as a string": ({"tools": ["f"]}, "tools"),
    "tool_choice as a string": ({"tool_choice": "auto"}, "tool_choice"),
    "an effort that nobody knows": ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    "a format without a schema": ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    "a format of another type": ({"output_format": {"type": "json_object"}}, "output_format"),
    "a format for the rest of an answer": (
        {**PREFILL, "output_config": {"format": {"type": "json_schema", "schema": {}}}},
        "output_config.format",
    ),
    "a format as a string": ({"output_config": {"format": "json"}}, "output_config.format"),
}


@pytest.mark.parametrize(("document", "param"), WRONG.values(), ids=WRONG)
def test_rejects_invalid_field_by_name(document: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        message_fields({**BASE, **document})

    assert caught.value.param == param
    assert param in caught.value.message


def test_counting_uses_only_prompt_fields() -> None:
    document = {**BASE, "system": "s", "tools": [TOOL], "thinking": {"type": "enabled"}, "stop_sequences": "not read"}

    body, _ = count_fields({name: value for name, value in document.items() if name != "max_tokens"})

    assert body.keys() == {"model", "messages", "tools", "chat_template_kwargs"}
    assert count_fields({**BASE, "tools": [TOOL], "tool_choice": {"type": "none"}})[0]["tool_choice"] == "none"
    assert "tool_choice" not in count_fields({**BASE, "tools": [TOOL], "tool_choice": {"type": "any"}})[0]
