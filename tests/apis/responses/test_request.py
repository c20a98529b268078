from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth import json_text
from berth.apis.openai.chat import OpenaiChat
from berth.canonical import Json, Operation
from berth.errors import InvalidRequestError
from tests.fakes.responses import NOW, WEATHER, api, request_of

CODEX: Json = {
    "model": "m",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix it."}]},
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
        {"type": "function_call", "name": "exec_command", "arguments": '{"cmd":"ls"}', "call_id": "call_1"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
    ],
    "tools": [
        {"type": "function", "name": "exec_command", "description": "Runs.", "strict": False, "parameters": {}},
        {"type": "custom", "name": "apply_patch", "description": "Edits.", "format": {"type": "grammar"}},
        {"type": "web_search", "external_web_access": True},
        {"type": "local_shell"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199",
    "text": {"verbosity": "medium"},
    "client_metadata": {"x": "y"},
}


def body(**fields: Any) -> Json:
    """Of the chat, besides model and messages."""
    return {name: value for name, value in request_of(**fields).body.items() if name not in ("model", "messages")}


def test_string_input_becomes_a_chat() -> None:
    request = request_of()

    assert request.operation is Operation.CHAT
    assert request.body == {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    assert (request.id, request.created_at, request.store) == ("resp_0a1", NOW, True)
    assert request.original == {"model": "m", "input": "Hello"}
    assert (request.stream, request.include_usage, request.ignored) == (False, False, ())
    assert request.knows_incomplete


def test_stream_includes_usage() -> None:
    request = request_of(stream=True)

    assert (request.stream, request.include_usage) == (True, True)
    assert request.body["stream"] is True
    assert "stream_options" not in request.body


def test_parses_codexs_request() -> None:
    request = api().parse(orjson.dumps(CODEX), {b"user-agent": b"codex_exec/0.98.0"})

    system, user, assistant, tool = request.body["messages"]
    assert system == {"role": "system", "content": "You are a coding agent.\n\n<permissions>"}
    assert (user["content"], tool["content"]) == ("Fix it.", "a.py")
    assert assistant["tool_calls"][0]["function"]["name"] == "exec_command"
    assert [one["function"]["name"] for one in request.body["tools"]] == ["exec_command", "apply_patch", "local_shell"]
    assert request.body["parallel_tool_calls"] is False
    assert request.ignored == (
        *("prompt_cache_key", "client_metadata", "text.verbosity"),
        *("tools.apply_patch.format", "tools.web_search"),
    )


SAME = {"temperature": 0.5, "top_p": 1, "user": "u", "seed": 7, "stop": ["x"], "top_k": 3, "min_p": 0.1}
TRANSLATED: dict[str, tuple[Json, Json]] = {
    "engines' own fields": (SAME, SAME),
    "null": ({"temperature": None, "tools": None, "text": None, "reasoning": None, "include": None}, {}),
    "max_output_tokens": ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
    "effort": ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
    "no reasoning": ({"reasoning": {"effort": "none"}}, {"reasoning_effort": "none"}),
    "the least effort": ({"reasoning": {"effort": "minimal"}}, {"reasoning_effort": "low"}),
    "the most effort": ({"reasoning": {"effort": "xhigh"}}, {"reasoning_effort": "high"}),
    "no effort": ({"reasoning": {"effort": None}}, {}),
    "plain text": ({"text": {"format": {"type": "text"}}}, {}),
    "any json": ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    "a schema": (
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True},
            }
        },
    ),
    "log probabilities": ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    "included log probabilities": (
        {"include": ["message.output_text.logprobs"]},
        {"logprobs": True, "top_logprobs": 0},
    ),
    "parallel calls without tools": ({"parallel_tool_calls": False}, {}),
    "parallel calls by default": ({"parallel_tool_calls": True}, {}),
}


@pytest.mark.parametrize(("fields", "chat"), TRANSLATED.values(), ids=TRANSLATED)
def test_translates_fields(fields: Json, chat: Json) -> None:
    assert body(**fields) == chat


IGNORED: dict[str, tuple[Json, tuple[str, ...]]] = {
    "nothing": ({"metadata": {"a": "b"}, "store": True, "text": {"format": {"type": "text"}}}, ()),
    "defaults": ({"service_tier": "auto", "truncation": "disabled", "background": False, "prompt": None}, ()),
    "OpenAI's services": (
        {"service_tier": "flex", "max_tool_calls": 3, "safety_identifier": "x", "prompt_cache_key": "y"},
        ("service_tier", "max_tool_calls", "safety_identifier", "prompt_cache_key"),
    ),
    "truncation": ({"truncation": "auto"}, ("truncation",)),
    "verbosity": (
        {"text": {"verbosity": "low"}, "reasoning": {"summary": "auto", "effort": "low", "context": "all"}},
        ("text.verbosity", "reasoning.context"),
    ),
    "includes": (
        {"include": ["web_search_call.results", "reasoning.encrypted_content"]},
        ("include.web_search_call.results",),
    ),
    "obfuscation": ({"stream": True, "stream_options": {"include_obfuscation": True}}, ("stream_options",)),
    "what nobody knows": ({"max_tokens": 5, "zzz": 1, "null": None}, ("max_tokens", "zzz")),
    "what a header cannot hold": ({"a\r\nb: c": 1, "é": 1, "x" * 99: 1, "": 1}, ()),
    "items": ({"input": [{"role": "user", "content": "x"}, {"type": "mcp_list_tools"}]}, ("input.mcp_list_tools",)),
    "twice": ({"tools": [{"type": "mcp"}, {"type": "mcp"}]}, ("tools.mcp",)),
}


@pytest.mark.parametrize(("fields", "ignored"), IGNORED.values(), ids=IGNORED)
def test_lists_ignored_fields(fields: Json, ignored: tuple[str, ...]) -> None:
    assert request_of(**fields).ignored == ignored


def test_limits_the_list_of_ignored_fields() -> None:
    assert len(request_of(None, **{f"x{number}": 1 for number in range(99)}).ignored) == 32


WRONG: dict[str, tuple[Json, str]] = {
    "no model": ({"model": None}, "model"),
    "no input": ({"input": None}, "input"),
    "an empty input": ({"input": []}, "input"),
    "an empty text": ({"input": ""}, "input"),
    "input as a number": ({"input": 7}, "input"),
    "instructions as a list": ({"instructions": ["x"]}, "instructions"),
    "stream as text": ({"stream": "yes"}, "stream"),
    "store as text": ({"store": "yes"}, "store"),
    "options without a stream": ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    "in the background": ({"background": True}, "background"),
    "a conversation": ({"conversation": "conv_1"}, "conversation"),
    "a template": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "too hot": ({"temperature": 2.5}, "temperature"),
    "no tokens": ({"max_output_tokens": 0}, "max_output_tokens"),
    "metadata of numbers": ({"metadata": {"a": 1}}, "metadata"),
    "include as text": ({"include": "x"}, "include"),
    "truncation of another kind": ({"truncation": "left"}, "truncation"),
    "effort as a number": ({"reasoning": {"effort": 3}}, "reasoning.effort"),
    "an unknown summary": ({"reasoning": {"summary": {"a": 1}}}, "reasoning.summary"),
    "an unknown effort": ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    "a format as text": ({"text": {"format": "json"}}, "text.format"),
    "an unknown format": ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    "a schema without name": ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    "a schema as text": (
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": "{}"}}},
        "text.format.schema",
    ),
    "a chat's schema": (
        {"text": {"format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}},
        "text.format.name",
    ),
    "strict as text": (
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": "yes"}}},
        "text.format.strict",
    ),
    "a tool that is none": ({"tools": ["f"]}, "tools.0"),
    "an item that is none": ({"input": [7]}, "input.0"),
    "an item of nowhere": ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.id"),
    "an item of a response that is gone": ({"input": [{"type": "item_reference", "id": "msg_0a_0"}]}, "input.0.id"),
    "too many log probabilities": ({"top_logprobs": 21}, "top_logprobs"),
    "an unknown response": ({"previous_response_id": "resp_1"}, "previous_response_id"),
}


@pytest.mark.parametrize(("fields", "param"), WRONG.values(), ids=WRONG)
def test_rejects_invalid_field_by_name(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        request_of(**fields)

    assert refused.value.param == param
    assert param.split(".", maxsplit=1)[0] in refused.value.message


def test_errors_name_the_alternative() -> None:
    with pytest.raises(InvalidRequestError, match=r"'background' is not supported. Omit it") as refused:
        request_of(background=True)

    assert refused.value.code == "unsupported_parameter"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def check(document: Any) -> None:
    """What is taken is a chat that OpenAI's own rules take."""
    try:
        request = api().parse(orjson.dumps(document))
    except InvalidRequestError:
        return
    OpenaiChat().parse(json_text.dumps(request.body))


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_json_is_accepted_or_rejected(document: Any) -> None:
    check(document)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values inside."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for name, value in inner for place in places(value, (*path, name)))]


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


EVERYTHING: Json = {
    **CODEX,
    "tools": [WEATHER, {"type": "namespace", "name": "ns", "tools": [WEATHER]}, *CODEX["tools"]],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "get_weather"}],
    },
    "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}},
    "top_logprobs": 2,
    "metadata": {"a": "b"},
    "input": [
        *CODEX["input"],
        {"role": "user", "content": [{"type": "input_image", "image_url": "http://x", "detail": "low"}]},
        {"type": "custom_tool_call", "call_id": "c", "name": "p", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]},
        {"type": "item_reference", "id": "msg_0a1_0"},
    ][:-1],
}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(places(EVERYTHING)), JSON | st.sampled_from(["input_text", "function", "none", "required", ""]))
def test_any_value_in_any_place_is_accepted_or_rejected(path: tuple[Any, ...], value: Any) -> None:
    check(changed(EVERYTHING, path, value))


def test_accepts_a_request_with_all_fields() -> None:
    check(EVERYTHING)
    assert api().parse(orjson.dumps(EVERYTHING)).body["tool_choice"] == "required"


@pytest.mark.parametrize("name", ["schema", "value"])
def test_schema_of_any_json_counts(name: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    request = request_of(text={"format": {"type": "json_object", name: schema}})

    assert request.body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema},
    }
    assert request.settings["text"] == {"format": {"type": "json_schema", "name": "answer", "schema": schema}}


def test_schema_of_any_json_must_be_an_object() -> None:
    with pytest.raises(InvalidRequestError) as rejected:
        request_of(text={"format": {"type": "json_object", "schema": "x"}})
    assert rejected.value.param == "text.format.schema"
