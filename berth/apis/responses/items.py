"""The items of a Responses request, normalised to the form of the API's output, in which they are stored too.

A client may omit much of an item: its type, its id, the list around a text. Normalised items have everything but the
id.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any

from berth.apis.openai.fields import formatted, mismatch, string_field
from berth.apis.responses import typed_items
from berth.apis.responses.client_tools import CALLS, OUTPUTS, TOOLS
from berth.canonical import Json
from berth.errors import InvalidRequestError

Find = Callable[[str], Json | None]  # an item of an earlier response, by its id

INPUT_ROLES = ("user", "system", "developer")
# Items that say nothing to a model: they are ignored, and x-berth-ignored names them.
IGNORED = {
    "ghost_snapshot": "a note of Codex to itself",
    "image_generation_call": "an image that was not made",
    "mcp_list_tools": "the tools of a server that OpenAI calls",
    "tool_search_call": "a search by OpenAI's server; the tools that it found are used",
    "web_search_call": "a search without its results, which are in the message after it",
}
# Items whose loss would change the response, and that no engine can read -> what to do instead.
REFUSED = {
    "compaction": "Its content can be read by OpenAI alone. Send the earlier conversation, or a summary as a message.",
    **dict.fromkeys(
        ("compaction_summary", "context_compaction"),  # of Codex
        "Its content can be read by OpenAI alone. Send the earlier conversation, or a summary as a message.",
    ),
    "compaction_trigger": "Berth makes no compactions. Ask the model for a summary, and send that as a message.",
    "computer_call": "Use functions instead.",
    "computer_call_output": "Send the screenshot as an input_image of a function_call_output.",
    "image_generation_call": "Send the image as an input_image of a message.",
    "mcp_approval_request": "OpenAI's server would make this call: offer the server's tools as functions.",
    "mcp_approval_response": "OpenAI's server would make this call: offer the server's tools as functions.",
}
_TEXTS = ("input_text", "output_text", "text")
_SEAL = "berth."  # before the base64 text of reasoning that the client sends back with the next turn
_DETAILS = ("low", "high", "auto", "original")


def read_items(value: Any, find: Find) -> tuple[list[Json], tuple[str, ...]]:
    """The normalised items of `input`, and those without effect. InvalidRequestError for an invalid item."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    items, ignored = [], []
    for place, item in enumerate(value):
        param = f"input.{place}"
        if not isinstance(item, dict):
            raise mismatch(param, "an object", item)
        kind = item.get("type")
        if kind is None:  # a message if it has a role, a reference if it has only an id
            kind = "message" if "role" in item else "item_reference" if "id" in item else ""
        if not isinstance(kind, str):
            kind = ""
        if kind == "item_reference":
            items.append(_referenced_item(item, param, find))
        elif kind in IGNORED and not (item.get("result") or item.get("call_id")):  # no image, no call by the client
            ignored.append(f"input.{kind}")
        elif kind in REFUSED:
            message = f"{param!r} is of type {kind!r}, which is not supported. {REFUSED[kind]}"
            raise InvalidRequestError(message, param=f"{param}.type", code="unsupported_parameter")
        elif kind in READERS:
            item_id = {"id": item["id"]} if isinstance(item.get("id"), str) and item["id"] else {}
            items.append({**item_id, **READERS[kind](item, param)})
        else:
            known = ", ".join(sorted(READERS))
            raise mismatch(f"{param}.type", f"one of {known}, item_reference", item.get("type"))
    return items, tuple(ignored)


def with_ids(items: list[Json], token: str) -> list[Json]:
    """The items, each with an id; `token` makes new ids unique."""
    return [
        item if "id" in item else {"id": f"{_PREFIXES[item['type']]}_{token}_i{place}", **item}
        for place, item in enumerate(items)
    ]


def sealed(reasoning: str) -> str:
    """Reasoning for a client that stores it and sends it back: `encrypted_content`. Encoded, not encrypted: the client
    has the text anyway.
    """
    whole = reasoning.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _SEAL + base64.b64encode(whole.encode()).decode()


def unsealed(text: Any) -> str:
    """The reasoning in an `encrypted_content`; "" for that of another server."""
    if not isinstance(text, str) or not text.startswith(_SEAL):
        return ""
    try:
        return base64.b64decode(text[len(_SEAL) :], validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _referenced_item(item: Json, param: str, find: Find) -> Json:
    item_id = item.get("id")
    found = find(item_id) if isinstance(item_id, str) else None
    if found is None:
        raise InvalidRequestError(
            f"{param!r} refers to {formatted(item_id)}, which is not in a stored response. Send the item itself.",
            param=f"{param}.id",
            code="item_not_found",
        )
    return found


def _read_message(item: Json, param: str) -> Json:
    role, content = item.get("role"), item.get("content")
    if role not in (*INPUT_ROLES, "assistant"):
        raise mismatch(f"{param}.role", f"one of {', '.join((*INPUT_ROLES, 'assistant'))}", role)
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise mismatch(f"{param}.content", "a string or a list of parts", content)
    read = _output_part if role == "assistant" else _input_part if role == "user" else _text_part
    parts = [read(part, f"{param}.content.{place}") for place, part in enumerate(content)]
    return {"type": "message", "role": role, "status": "completed", "content": parts}


def _output_part(part: Any, param: str) -> Json:
    if isinstance(part, dict) and part.get("type") == "refusal":
        return {"type": "refusal", "refusal": string_field(part, "refusal", param)}
    return {"type": "output_text", "text": _text_part(part, param)["text"], "annotations": []}


def _text_part(part: Any, param: str) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXTS:
        raise mismatch(param, "a text part, {'type': 'input_text', 'text': ...}", part)
    return {"type": "input_text", "text": string_field(part, "text", param)}


def _input_part(part: Any, param: str) -> Json:
    """A part of a user's message or of a tool's output."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image":
        url, detail = part.get("image_url"), part.get("detail") or "auto"
        if not isinstance(url, str) or not url:
            raise InvalidRequestError(
                f"{param!r} must have an 'image_url': a URL, or data:image/...;base64,... 'file_id' is not supported, "
                "because Berth stores no files.",
                param=f"{param}.image_url",
            )
        if detail not in _DETAILS:
            raise mismatch(f"{param}.detail", f"one of {', '.join(_DETAILS)}", detail)
        return {"type": "input_image", "image_url": url, "detail": detail}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if kind == "input_file":
        raise InvalidRequestError(
            f"{param!r} is a file, which engines cannot read. Send its text as input_text, or pages as input_image.",
            param=param,
            code="unsupported_parameter",
        )
    return _text_part(part, param)


def _read_call(item: Json, param: str) -> Json:
    """The call of a function or of a custom tool."""
    names = ("call_id", "name", "arguments" if item["type"] == "function_call" else "input")
    fields = {name: string_field(item, name, param) for name in names}
    if item.get("namespace") is not None:
        fields["namespace"] = string_field(item, "namespace", param)
    return {"type": item["type"], **fields, "status": "completed"}


def _read_output(item: Json, param: str) -> Json:
    output = item.get("output")
    if isinstance(output, list):
        output = [_input_part(part, f"{param}.output.{place}") for place, part in enumerate(output)]
    elif not isinstance(output, str):
        raise mismatch(f"{param}.output", "a string or a list of parts", output)
    call_id = string_field(item, "call_id", param)
    return {"type": item["type"], "call_id": call_id, "output": output, "status": "completed"}


def _read_reasoning(item: Json, param: str) -> Json:
    """From Berth, or from another server, where only the summary may be readable."""
    read: Json = {"type": "reasoning"}
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = item.get(name)
        if not isinstance(parts, list | None):
            raise mismatch(f"{param}.{name}", "a list of parts", parts)
        read[name] = []
        for place, part in enumerate(parts or ()):
            fields = part if isinstance(part, dict) else {}
            read[name].append({"type": kind, "text": string_field(fields, "text", f"{param}.{name}.{place}")})
    text = unsealed(item.get("encrypted_content"))
    if text and not read["content"]:
        read["content"] = [{"type": "reasoning_text", "text": text}]
    return read


def _read_agent_message(item: Json, param: str) -> Json:
    """From one of Codex's agents to another: the user's side of the conversation for the one that reads it."""
    author, recipient = string_field(item, "author", param), string_field(item, "recipient", param)
    heading = {"type": "input_text", "text": f"Message from {author} to {recipient}:"}
    content = item.get("content")
    if not isinstance(content, list):
        raise mismatch(f"{param}.content", "a list of parts", content)
    return _read_message({"role": "user", "content": [heading, *content]}, param)


READERS: dict[str, Callable[[Json, str], Json]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_output,
    "custom_tool_call": _read_call,
    "custom_tool_call_output": _read_output,
    "reasoning": _read_reasoning,
    **dict.fromkeys(CALLS, typed_items.read_call),
    **dict.fromkeys(OUTPUTS, typed_items.read_output),
    "tool_search_output": typed_items.read_tools_item,
    "additional_tools": typed_items.read_tools_item,
    "agent_message": _read_agent_message,
    **dict.fromkeys(typed_items.SERVER_CALLS, typed_items.read_server_call),
    "configuration_update": typed_items.read_configuration,
}
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    **{call: TOOLS[name].prefix for call, name in CALLS.items()},
    **{output: f"{TOOLS[name].prefix}o" for output, name in OUTPUTS.items()},
    "additional_tools": "at",
    "code_interpreter_call": "ci",
    "file_search_call": "fs",
    "mcp_call": "mcp",
    "program": "prog",
    "program_output": "progo",
    "configuration_update": "cu",
}
