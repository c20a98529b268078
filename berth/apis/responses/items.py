"""The items of a Responses request: read into the form in which the API shows them, which is also how they are kept.

A client may leave out much of an item (its type, its id, the list around a text). What is read here has all of it but
the id, so that whatever comes later has one form to care for.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any

from berth.apis.openai.fields import shown
from berth.canonical import Json
from berth.errors import InvalidRequestError

Find = Callable[[str], Json | None]  # an output item of an earlier response by its id

INPUT_ROLES = ("user", "system", "developer")
# What OpenAI's own servers did in an earlier turn. No engine knows such turns: they are left out.
_HOSTED = frozenset(
    {
        *("web_search_call", "file_search_call", "computer_call", "computer_call_output", "code_interpreter_call"),
        *("image_generation_call", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output"),
        *("apply_patch_call", "apply_patch_call_output", "mcp_list_tools", "mcp_approval_request", "mcp_call"),
        *("mcp_approval_response", "tool_search_call", "tool_search_output", "program", "program_output"),
        *("additional_tools", "configuration_update"),
    }
)
_TEXTS = ("input_text", "output_text", "text")
_REASONING_MARK = "berth."  # before the base64 text of reasoning that the client carries from turn to turn
_DETAILS = ("low", "high", "auto", "original")


def read_items(value: Any, find: Find) -> tuple[list[Json], tuple[str, ...]]:
    """The items of `input`, and which of them have no effect. InvalidRequestError with the place of a wrong one."""
    if isinstance(value, str):
        return [_message("user", [{"type": "input_text", "text": value}])], ()
    items, ignored = [], []
    for place, item in enumerate(value):
        param = f"input.{place}"
        if not isinstance(item, dict):
            raise InvalidRequestError(f"{param!r} must be an object, not {shown(item)}.", param=param)
        kind = _kind(item)
        if kind == "item_reference":
            items.append(_referred(item, param, find))
        elif kind in _HOSTED:
            ignored.append(f"input.{kind}")
        elif kind in _READERS:
            items.append({**_id_of(item), **_READERS[kind](item, param)})
        else:
            raise InvalidRequestError(
                f"{param!r} has a type that Berth does not know: {shown(item.get('type'))}. There are "
                f"{', '.join(sorted(_READERS))} and item_reference.",
                param=f"{param}.type",
            )
    return items, tuple(ignored)


def with_ids(items: list[Json], token: str) -> list[Json]:
    """The items, each with an id; `token` makes it one of a kind."""
    return [
        item if "id" in item else {"id": f"{_PREFIXES[item['type']]}_{token}_i{place}", **item}
        for place, item in enumerate(items)
    ]


def sealed(reasoning: str) -> str:
    """Reasoning for a client that keeps it and sends it back: `encrypted_content`. Encoded, not encrypted: the client
    has the text anyway.
    """
    return _REASONING_MARK + base64.b64encode(reasoning.encode()).decode()


def unsealed(text: Any) -> str:
    """The reasoning in an `encrypted_content`; "" where it is not Berth's."""
    if not isinstance(text, str) or not text.startswith(_REASONING_MARK):
        return ""
    try:
        return base64.b64decode(text[len(_REASONING_MARK) :], validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _kind(item: Json) -> Any:
    """Of an item without a type, what it must be: a message has a role, a reference nothing but an id."""
    kind = item.get("type")
    if kind is not None:
        return kind if isinstance(kind, str) else ""
    return "message" if "role" in item else "item_reference" if "id" in item else ""


def _id_of(item: Json) -> Json:
    return {"id": item["id"]} if isinstance(item.get("id"), str) and item["id"] else {}


def _referred(item: Json, param: str, find: Find) -> Json:
    name = item.get("id")
    found = find(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidRequestError(
            f"{param!r} refers to {shown(name)}, which is in no response that Berth still has. Send the item itself.",
            param=f"{param}.id",
            code="item_not_found",
        )
    return found


def _message(role: str, content: list[Json]) -> Json:
    return {"type": "message", "role": role, "status": "completed", "content": content}


def _read_message(item: Json, param: str) -> Json:
    role = item.get("role")
    if role not in (*INPUT_ROLES, "assistant"):
        raise InvalidRequestError(
            f"The role in {param!r} must be one of {', '.join((*INPUT_ROLES, 'assistant'))}, not {shown(role)}.",
            param=f"{param}.role",
        )
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidRequestError(
            f"'{param}.content' must be a string or a list of parts, not {shown(content)}.", param=f"{param}.content"
        )
    read = _output_part if role == "assistant" else _input_part if role == "user" else _text_part
    return _message(role, [read(part, f"{param}.content.{place}") for place, part in enumerate(content)])


def _output_part(part: Any, param: str) -> Json:
    if isinstance(part, dict) and part.get("type") == "refusal":
        return {"type": "refusal", "refusal": _text_in(part, "refusal", param)}
    return {"type": "output_text", "text": _text_part(part, param)["text"], "annotations": []}


def _text_part(part: Any, param: str) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXTS:
        raise InvalidRequestError(
            f"{param!r} must be text here: {{'type': 'input_text', 'text': ...}}, not {shown(part)}.", param=param
        )
    return {"type": "input_text", "text": _text_in(part, "text", param)}


def _input_part(part: Any, param: str) -> Json:
    """Of a user's message, or of a tool's output."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image":
        return _image(part, param)
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if kind == "input_file":
        raise InvalidRequestError(
            f"{param!r} is a file, which engines cannot read. Send its text as input_text, or pages as input_image.",
            param=param,
            code="unsupported_parameter",
        )
    return _text_part(part, param)


def _image(part: Json, param: str) -> Json:
    url = part.get("image_url")
    if not isinstance(url, str) or not url:
        raise InvalidRequestError(
            f"{param!r} must have an 'image_url': a URL, or data:image/...;base64,... Berth keeps no files, so "
            "'file_id' means nothing here.",
            param=f"{param}.image_url",
        )
    detail = part.get("detail") or "auto"
    if detail not in _DETAILS:
        raise InvalidRequestError(
            f"'{param}.detail' must be one of {', '.join(_DETAILS)}, not {shown(detail)}.", param=f"{param}.detail"
        )
    return {"type": "input_image", "image_url": url, "detail": detail}


def _read_call(item: Json, param: str) -> Json:
    fields = {name: _text_in(item, name, param) for name in ("call_id", "name", "arguments")}
    return {"type": "function_call", **fields, **_namespace_of(item, param), "status": "completed"}


def _read_custom_call(item: Json, param: str) -> Json:
    fields = {name: _text_in(item, name, param) for name in ("call_id", "name", "input")}
    return {"type": "custom_tool_call", **fields, **_namespace_of(item, param), "status": "completed"}


def _namespace_of(item: Json, param: str) -> Json:
    return {} if item.get("namespace") is None else {"namespace": _text_in(item, "namespace", param)}


def _read_output(item: Json, param: str) -> Json:
    output = item.get("output")
    if isinstance(output, list):
        output = [_input_part(part, f"{param}.output.{place}") for place, part in enumerate(output)]
    elif not isinstance(output, str):
        raise InvalidRequestError(
            f"'{param}.output' must be a string or a list of parts, not {shown(output)}.", param=f"{param}.output"
        )
    call_id = _text_in(item, "call_id", param)
    return {"type": item["type"], "call_id": call_id, "output": output, "status": "completed"}


def _read_reasoning(item: Json, param: str) -> Json:
    """What a client got from Berth, or from another server: there only the summary may be readable."""
    read: Json = {"type": "reasoning"}
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = item.get(name)
        if not isinstance(parts, list | None):
            raise InvalidRequestError(
                f"'{param}.{name}' must be a list of parts, not {shown(parts)}.", param=f"{param}.{name}"
            )
        places = (f"{param}.{name}.{place}" for place in range(len(parts or ())))
        read[name] = [
            {"type": kind, "text": _text_in(part if isinstance(part, dict) else {}, "text", place)}
            for part, place in zip(parts or (), places, strict=True)
        ]
    text = unsealed(item.get("encrypted_content"))
    if text and not read["content"]:
        read["content"] = [{"type": "reasoning_text", "text": text}]
    return read


def _text_in(item: Json, name: str, param: str) -> str:
    text = item.get(name)
    if not isinstance(text, str):
        raise InvalidRequestError(f"'{param}.{name}' must be a string, not {shown(text)}.", param=f"{param}.{name}")
    return text


_READERS: dict[str, Callable[[Json, str], Json]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_output,
    "custom_tool_call": _read_custom_call,
    "custom_tool_call_output": _read_output,
    "reasoning": _read_reasoning,
}
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}
