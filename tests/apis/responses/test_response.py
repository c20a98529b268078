from typing import Any

import orjson
import pytest

from berth.apis.responses.response import is_object
from berth.canonical import Json
from tests.fakes.responses import NOW, WEATHER, api, check_response, request_of


def answered(message: Json, finish: str = "stop", **fields: Any) -> Json:
    """The response, checked by the official client's type."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    request = request_of(**fields)
    document = {"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": usage}
    return check_response(orjson.loads(api().response(request, orjson.dumps(document))))


def called(name: str, arguments: str, call_id: str | None = "c") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_response_has_all_fields_of_the_api() -> None:
    response = answered(
        {"content": "Hi"},
        instructions="Be kind.",
        metadata={"a": "b"},
        temperature=0.5,
        max_output_tokens=9,
        tools=[WEATHER],
        reasoning={"effort": "low", "summary": "auto"},
        user="u",
        store=False,
    )

    part = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
    message = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
    assert response == {
        "id": "resp_0a1",
        "object": "response",
        "created_at": NOW,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "m",
        "output": [{"id": "msg_0a1_0", **message}],
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7,
        },
        "background": False,
        "instructions": "Be kind.",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [WEATHER],
        "top_logprobs": 0,
        "top_p": None,
        "truncation": "disabled",
        "user": "u",
    }


def test_items_are_in_order() -> None:
    response = answered(
        {"reasoning": "Hm.", "content": "I look.", "tool_calls": [called("f", "{}"), called("g", "", None)]},
        finish="tool_calls",
    )

    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert [item["arguments"] for item in response["output"][2:]] == ["{}", "{}"]
    assert [item["call_id"] for item in response["output"][2:]] == ["c", "call_0a1_3"]


def test_a_custom_tools_call_has_its_text() -> None:
    response = answered({"tool_calls": [called("p", '{"input":"x"}')]}, tools=[{"type": "custom", "name": "p"}])

    assert (response["output"][0]["type"], response["output"][0]["input"]) == ("custom_tool_call", "x")


@pytest.mark.parametrize(
    ("message", "statuses"),
    [
        ({"reasoning": "Hm"}, ["incomplete"]),
        ({"reasoning": "Hm", "content": "On"}, ["completed", "incomplete"]),
        ({"content": "On", "tool_calls": [called("f", "{}"), called("g", '{"a')]}, ["completed"] * 2 + ["incomplete"]),
    ],
)
def test_last_item_of_an_incomplete_response_is_incomplete(message: Json, statuses: list[str]) -> None:
    response = answered(message, finish="length")

    assert [item["status"] for item in response["output"]] == statuses
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_empty_response_has_an_empty_message() -> None:
    assert answered({})["output"][0]["content"][0]["text"] == ""


def test_keeps_a_refusal() -> None:
    assert answered({"refusal": "No."})["output"][0]["content"][0]["text"] == "No."


@pytest.mark.parametrize(
    ("arguments", "whole"),
    [
        ("{}", True),
        (' {"a": 1}\n', True),
        ("", False),
        ("{", False),
        ('{"a": {}', False),
        ("[1]", False),
        ("{a}", False),
    ],
)
def test_detects_complete_arguments(arguments: str, whole: bool) -> None:
    assert is_object(arguments) is whole
