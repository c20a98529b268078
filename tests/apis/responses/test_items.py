from typing import Any

import pytest

from berth.apis.responses.items import read_items, sealed, unsealed, with_ids
from berth.canonical import Json
from berth.errors import InvalidRequestError
from tests.fakes.responses import check_item


def nothing(name: str) -> Json | None:
    return {"type": "message", "id": name} if name == "msg_known" else None


def read(*items: Any) -> list[Json]:
    return read_items(list(items), nothing)[0]


def test_string_input_becomes_a_user_message() -> None:
    items, ignored = read_items("Hi", nothing)

    part = {"type": "input_text", "text": "Hi"}
    assert items == [{"type": "message", "role": "user", "status": "completed", "content": [part]}]
    assert ignored == ()


FULL: dict[str, Json] = {
    "an easy message": {"role": "user", "content": "Hi"},
    "a developer's": {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
    "a picture": {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]},
    "an assistant's text": {"role": "assistant", "content": "Hello"},
    "an assistant's parts": {
        "role": "assistant",
        "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "No."}],
    },
    "a call": {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    "a call in a namespace": {
        "type": "function_call",
        "call_id": "c",
        "name": "f",
        "namespace": "ns",
        "arguments": "{}",
    },
    "an output": {"type": "function_call_output", "call_id": "c", "output": "7"},
    "an output of parts": {
        "type": "function_call_output",
        "call_id": "c",
        "output": [{"type": "input_text", "text": "7"}, {"type": "input_image", "image_url": "http://x/y.png"}],
    },
    "a custom call": {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"},
    "a custom output": {"type": "custom_tool_call_output", "call_id": "c", "output": "7"},
    "reasoning": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]},
}


@pytest.mark.parametrize("item", FULL.values(), ids=FULL)
def test_normalises_items(item: Json) -> None:
    (shown,) = with_ids(read(item), "0a")

    assert shown["id"].endswith("_0a_i0")
    check_item(shown)


def test_normalising_twice_changes_nothing() -> None:
    once = with_ids(read(*FULL.values()), "0a")

    assert with_ids(read(*once), "0b") == once


def test_keeps_valid_ids_and_replaces_invalid_ones() -> None:
    mine, bad = with_ids(read({**FULL["a call"], "id": "fc_1"}, {**FULL["a call"], "id": None}), "0a")

    assert (mine["id"], bad["id"]) == ("fc_1", "fc_0a_i1")


def test_lists_server_items_as_ignored() -> None:
    items, ignored = read_items([{"type": "web_search_call", "id": "ws"}, {"role": "user", "content": "x"}], nothing)

    assert len(items) == 1
    assert ignored == ("input.web_search_call",)


def test_reference_becomes_the_item() -> None:
    assert (
        read({"type": "item_reference", "id": "msg_known"}, {"id": "msg_known"})
        == [{"type": "message", "id": "msg_known"}] * 2
    )


def test_sealed_reasoning_round_trips() -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": sealed("Grüße")}

    assert read(item)[0]["content"] == [{"type": "reasoning_text", "text": "Grüße"}]


@pytest.mark.parametrize("text", [None, 7, "", "gAAAA-of-openai", "berth.not base64!", "berth./w==", "berth.é"])
def test_reasoning_of_other_servers_is_unreadable(text: Any) -> None:
    assert unsealed(text) == ""
    assert read({"type": "reasoning", "encrypted_content": text})[0]["content"] == []


WRONG: dict[str, tuple[Any, str]] = {
    "text": ("Hi", "input.0"),
    "an unknown type": ({"type": "zzz"}, "input.0.type"),
    "a type that is none": ({"type": 7}, "input.0.type"),
    "neither type nor role": ({"content": "x"}, "input.0.type"),
    "compacted history of OpenAI's": ({"type": "compaction", "encrypted_content": "x"}, "input.0.type"),
    "an unknown role": ({"role": "tool", "content": "x"}, "input.0.role"),
    "a role that is none": ({"role": ["user"], "content": "x"}, "input.0.role"),
    "no content": ({"role": "user"}, "input.0.content"),
    "a part as text": ({"role": "user", "content": ["Hi"]}, "input.0.content.0"),
    "an unknown part": ({"role": "user", "content": [{"type": "video"}]}, "input.0.content.0"),
    "a text without text": ({"role": "user", "content": [{"type": "input_text"}]}, "input.0.content.0.text"),
    "a file": ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input.0.content.0"),
    "an image by its id": (
        {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
        "input.0.content.0.image_url",
    ),
    "an unknown detail": (
        {"role": "user", "content": [{"type": "input_image", "image_url": "x", "detail": 7}]},
        "input.0.content.0.detail",
    ),
    "an image of the system's": (
        {"role": "system", "content": [{"type": "input_image", "image_url": "x"}]},
        "input.0.content.0",
    ),
    "an image of the assistant's": (
        {"role": "assistant", "content": [{"type": "input_image", "image_url": "x"}]},
        "input.0.content.0",
    ),
    "a refusal without words": ({"role": "assistant", "content": [{"type": "refusal"}]}, "input.0.content.0.refusal"),
    "audio without data": ({"role": "user", "content": [{"type": "input_audio"}]}, "input.0.content.0"),
    "a call without id": ({"type": "function_call", "name": "f", "arguments": "{}"}, "input.0.call_id"),
    "arguments as an object": (
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": {}},
        "input.0.arguments",
    ),
    "a namespace that is none": (
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": 7},
        "input.0.namespace",
    ),
    "a custom call without text": ({"type": "custom_tool_call", "call_id": "c", "name": "f"}, "input.0.input"),
    "an output as a number": ({"type": "function_call_output", "call_id": "c", "output": 7}, "input.0.output"),
    "an output without a call": ({"type": "function_call_output", "output": "7"}, "input.0.call_id"),
    "reasoning as text": ({"type": "reasoning", "summary": "x"}, "input.0.summary"),
    "reasoning of texts": ({"type": "reasoning", "content": ["x"]}, "input.0.content.0.text"),
    "an unknown reference": ({"type": "item_reference", "id": "msg_x"}, "input.0.id"),
    "a reference to nothing": ({"type": "item_reference"}, "input.0.id"),
}


@pytest.mark.parametrize(("item", "param"), WRONG.values(), ids=WRONG)
def test_rejects_invalid_item_by_place(item: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read(item)

    assert refused.value.param == param
