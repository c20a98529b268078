import base64

import pytest

from berth.apis.ollama.messages import chat_messages, chat_tools, continues_last, user_message
from berth.canonical import Json
from berth.errors import InvalidRequestError

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()
USER: Json = {"role": "user", "content": "Hello"}


def call(name: str, arguments: object = None, **fields: object) -> Json:
    return {"function": {"name": name, "arguments": arguments}, **fields}


def turns(*calls: Json, results: tuple[Json, ...]) -> list[Json]:
    asked = {"role": "assistant", "content": "", "tool_calls": list(calls)}
    return chat_messages([USER, asked, *({"role": "tool", "content": "7", **result} for result in results)])


def test_plain_messages_are_unchanged() -> None:
    messages = [{"role": "system", "content": "Be short."}, USER, {"role": "assistant", "content": "Hi"}]

    assert chat_messages(messages) == messages


def test_missing_content_is_empty_and_roles_ignore_case() -> None:
    assert chat_messages([{"role": "User"}, {"role": "assistant", "content": None}]) == [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
    ]


def test_thinking_becomes_reasoning() -> None:
    assert chat_messages([{"role": "assistant", "content": "4", "thinking": "2+2"}])[0]["reasoning"] == "2+2"


def test_arguments_become_json_text_and_calls_get_ids() -> None:
    first, second = turns(call("f", {"a": 1}), call("g"), results=())[1]["tool_calls"]

    assert first == {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert (second["id"], second["function"]["arguments"]) == ("call_2", "{}")


@pytest.mark.parametrize(("given", "kept"), [('{"a": 1}', '{"a": 1}'), ("", "{}")])
def test_keeps_arguments_that_are_json_text(given: str, kept: str) -> None:
    assert turns(call("f", given), results=())[1]["tool_calls"][0]["function"]["arguments"] == kept


RESULTS: dict[str, tuple[tuple[Json, ...], list[str | None]]] = {
    "by name, in any order": (({"tool_name": "g"}, {"tool_name": "f"}), ["call_2", "call_1"]),
    "by id": (({"tool_call_id": "call_2"}, {"tool_name": "f"}), ["call_2", "call_1"]),
    "in turn": (({}, {}), ["call_1", "call_2"]),
    "by a name that was not called, in turn": (({"tool_name": "h"}, {"name": "g"}), ["call_1", "call_2"]),
    "one too many": (({}, {}, {}), ["call_1", "call_2", None]),
}


@pytest.mark.parametrize(("results", "ids"), RESULTS.values(), ids=RESULTS)
def test_matches_results_to_calls(results: tuple[Json, ...], ids: list[str | None]) -> None:
    answered = turns(call("f"), call("g"), results=results)[2:]

    assert [message.get("tool_call_id") for message in answered] == ids


def test_uses_the_clients_call_ids() -> None:
    asked, answered = turns(call("f", id="abc"), results=({"tool_name": "f"},))[1:]

    assert asked["tool_calls"][0]["id"] == answered["tool_call_id"] == "abc"
    assert answered["name"] == "f"


IMAGES = {
    "jpeg": b"\xff\xd8\xff\xe0",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF89a",
    "webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    "bmp": b"BM1234",
    "tiff": b"II*\x00",
    "heic": b"\x00\x00\x00\x18ftypheic",
    "avif": b"\x00\x00\x00\x18ftypavif",
}


@pytest.mark.parametrize(("kind", "data"), IMAGES.items(), ids=IMAGES)
def test_image_becomes_a_data_url_with_its_type(kind: str, data: bytes) -> None:
    encoded = base64.b64encode(data).decode()

    text, image = user_message("What is it?", [encoded], "images")["content"]

    assert text == {"type": "text", "text": "What is it?"}
    assert image == {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{encoded}"}}


def test_accepts_wrapped_base64_and_data_urls() -> None:
    images = [f"{PNG[:8]}\r\n{PNG[8:]}\n", f"data:image/whatever;base64,{PNG}"]

    parts = chat_messages([{"role": "user", "images": images}])[0]["content"]

    assert [part["image_url"]["url"] for part in parts] == [f"data:image/png;base64,{PNG}"] * 2


WRONG: dict[str, tuple[object, str]] = {
    "no object": ("Hello", "'messages.0' must be an object, not \"Hello\""),
    "role": ({"role": "robot"}, "'messages.0.role' must be one of system, user, assistant, tool, not \"robot\""),
    "no role": ({"content": "x"}, "'messages.0.role' must be one of"),
    "OpenAI's parts": ({"role": "user", "content": [{"type": "text"}]}, "'messages.0.content' must be a string"),
    "thinking": ({"role": "assistant", "thinking": 1}, "'messages.0.thinking' must be a string, not 1"),
    "images": ({"role": "user", "images": "x"}, "'messages.0.images' must be a list of images"),
    "an image": ({"role": "user", "images": [1]}, "'messages.0.images.0' must be an image in base64, not 1"),
    "no base64": ({"role": "user", "images": ["!!"]}, "'messages.0.images.0' must be an image in base64"),
    "not even ASCII": ({"role": "user", "images": ["é"]}, "'messages.0.images.0' must be an image in base64"),
    "no image": ({"role": "user", "images": ["aGVsbG8="]}, "'messages.0.images.0' has an unknown image format"),
    "calls": ({"role": "assistant", "tool_calls": {}}, "'messages.0.tool_calls' must be a list of tool calls"),
    "a call": ({"role": "assistant", "tool_calls": [{}]}, "'messages.0.tool_calls.0' must be an object like"),
    "a call that is none": ({"role": "assistant", "tool_calls": [1]}, "'messages.0.tool_calls.0' must be an object"),
    "arguments": (
        {"role": "assistant", "tool_calls": [call("f", "{")]},
        "'messages.0.tool_calls.0.function.arguments' must be an object",
    ),
    "arguments in a list": (
        {"role": "assistant", "tool_calls": [call("f", [1])]},
        "'messages.0.tool_calls.0.function.arguments' must be an object",
    ),
    "tool_name": ({"role": "tool", "tool_name": 1}, "'messages.0.tool_name' must be a string"),
    "tool_call_id": ({"role": "tool", "tool_call_id": 1}, "'messages.0.tool_call_id' must be a string"),
}


@pytest.mark.parametrize(("message", "words"), WRONG.values(), ids=WRONG)
def test_rejects_invalid_message_with_value_and_expectation(message: object, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        chat_messages([message])


def test_tools_are_stripped_of_nulls_and_typed() -> None:
    tool = {"function": {"name": "f", "description": None, "parameters": {"type": "object"}}}

    assert chat_tools([tool]) == [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("tool", [1, {}, {"function": {"name": 7}}])
def test_rejects_invalid_tool_by_name(tool: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"'tools\.0' must be an object like"):
        chat_tools([tool])


@pytest.mark.parametrize(
    ("last", "continues"),
    [
        ({"role": "assistant", "content": "It is"}, True),
        ({"role": "assistant", "content": ""}, False),
        ({"role": "assistant", "content": "x", "tool_calls": [call("f")]}, False),
        (USER, False),
    ],
)
def test_detects_a_prefilled_assistant_message(last: Json, continues: bool) -> None:
    assert continues_last(chat_messages([USER, last])) is continues
