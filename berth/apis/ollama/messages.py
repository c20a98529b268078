"""Ollama's messages and tools in the form of a canonical chat.

Ollama has images in a field of their own, as plain base64, arguments of tool calls as objects, and tool results that
name the function rather than the call.
"""

import base64
import binascii
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from berth import json_text
from berth.apis.openai.fields import mismatch
from berth.canonical import Json
from berth.errors import InvalidRequestError

ROLES: Final = ("system", "user", "assistant", "tool")
_MAGIC_BYTES: Final = 16  # of an image, at most
_MAGIC: Final = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
}
_LINE_BREAKS: Final = str.maketrans("", "", "\r\n")  # base64 may be wrapped
_IMAGE_FORMATS: Final = "JPEG, PNG, GIF, WebP, BMP, TIFF, HEIC, AVIF"


@dataclass(slots=True)
class _Calls:
    """The tool calls of a conversation: their ids, and those of the last assistant message without a result yet."""

    count: int = 0
    pending: set[str] = field(default_factory=set)  # ids
    by_name: dict[str | None, deque[str]] = field(default_factory=dict)  # of functions: the ids in order, and others
    in_order: deque[str] = field(default_factory=deque)  # the same of all functions

    def begin(self, calls: list[Json]) -> None:
        self.in_order = deque(call["id"] for call in calls)
        self.pending = set(self.in_order)
        self.by_name = {}
        for call in calls:
            self.by_name.setdefault(call["function"]["name"], deque()).append(call["id"])

    def next_id(self) -> str:
        self.count += 1
        return f"call_{self.count}"

    def match(self, call_id: str | None, name: str | None) -> str | None:
        """The id of the call that a result belongs to: by id, else by the function's name, else the first pending."""
        found = call_id
        for ids in (self.by_name.get(name), self.in_order):
            while ids and ids[0] not in self.pending:
                ids.popleft()
            if not found and ids:
                found = ids[0]
        self.pending.discard(found or "")
        return found


def chat_messages(messages: list[Any]) -> list[Json]:
    """InvalidRequestError for a list with anything but messages."""
    calls = _Calls()
    chats: list[Json] = []
    for place, message in enumerate(messages):
        param = f"messages.{place}"
        if not isinstance(message, dict):
            raise mismatch(param, "an object", message)
        role = message.get("role")
        role = role.lower() if isinstance(role, str) else role
        if role not in ROLES:
            raise mismatch(f"{param}.role", f"one of {', '.join(ROLES)}", message.get("role"))
        content = _text(message, "content", param) or ""
        chat: Json = {"role": role, "content": _content(content, message.get("images"), f"{param}.images")}
        thinking = _text(message, "thinking", param)
        if role == "assistant":
            if thinking:
                chat["reasoning"] = thinking
            if tool_calls := _tool_calls(message.get("tool_calls"), f"{param}.tool_calls", calls):
                chat["tool_calls"] = tool_calls
                calls.begin(tool_calls)
        if role == "tool":
            name = _text(message, "tool_name", param) or _text(message, "name", param)
            if call_id := calls.match(_text(message, "tool_call_id", param), name):
                chat["tool_call_id"] = call_id
            if name:
                chat["name"] = name
        chats.append(chat)
    return chats


def user_message(prompt: str, images: Any, param: str) -> Json:
    return {"role": "user", "content": _content(prompt, images, param)}


def continues_last(messages: list[Json]) -> bool:
    """True for a prefilled assistant message at the end: Ollama continues it."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def chat_tools(tools: list[Any]) -> list[Json]:
    functions = []
    for place, tool in enumerate(tools):
        function = _function_of(tool)
        if function is None:
            expected = "an object like {'type': 'function', 'function': {'name': ...}}"
            raise mismatch(f"tools.{place}", expected, tool)
        if type(schema := function.get("parameters")) is not dict and schema is not None:
            raise mismatch(f"tools.{place}.function.parameters", "a JSON schema, which is an object", schema)
        functions.append({name: value for name, value in function.items() if value is not None})
    return [{"type": "function", "function": function} for function in functions]


def _text(message: Json, name: str, param: str) -> str | None:
    value = message.get(name)
    if value is not None and not isinstance(value, str):
        raise mismatch(f"{param}.{name}", "a string", value)
    return value


def _tool_calls(tool_calls: Any, param: str, calls: _Calls) -> list[Json]:
    if not isinstance(tool_calls, list | None):
        raise mismatch(param, "a list of tool calls", tool_calls)
    chat: list[Json] = []
    for place, call in enumerate(tool_calls or ()):
        function = _function_of(call)
        if function is None:
            expected = "an object like {'function': {'name': ..., 'arguments': {...}}}"
            raise mismatch(f"{param}.{place}", expected, call)
        call_id = call.get("id")
        if not isinstance(call_id, str) or not call_id:
            call_id = calls.next_id()
        given = parsed = function.get("arguments")
        if isinstance(given, str):  # text of an object is accepted, because clients of both APIs send it
            with contextlib.suppress(orjson.JSONDecodeError):
                parsed = json_text.loads(given or "{}")
        if given is not None and not isinstance(parsed, dict):
            raise mismatch(f"{param}.{place}.function.arguments", "an object", given)
        arguments = given or "{}" if isinstance(given, str) else json_text.text_of({} if given is None else given)
        chat.append({"id": call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return chat


def _function_of(value: Any) -> Json | None:
    """The function of a tool or a call; None without a name."""
    function = value.get("function") if isinstance(value, dict) else None
    return function if isinstance(function, dict) and isinstance(function.get("name"), str) else None


def _content(text: str, images: Any, param: str) -> str | list[Json]:
    if images is None or images == []:
        return text
    if not isinstance(images, list):
        raise mismatch(param, "a list of images", images)
    parts: list[Json] = [{"type": "text", "text": text}] if text else []
    for place, image in enumerate(images):
        if not isinstance(image, str):
            raise mismatch(f"{param}.{place}", "an image in base64", image)
        data = image.translate(_LINE_BREAKS)
        if data.startswith("data:"):
            data = data.partition(",")[2]
        try:
            beginning = base64.b64decode(data, validate=True)[:_MAGIC_BYTES]
        except (binascii.Error, ValueError) as exc:  # ValueError: not even ASCII
            raise mismatch(f"{param}.{place}", "an image in base64", image) from exc
        kind = _image_type(beginning, f"{param}.{place}")
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}})
    return parts


def _image_type(beginning: bytes, param: str) -> str:
    for magic, kind in _MAGIC.items():
        if beginning.startswith(magic):
            return kind
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return "webp"
    if beginning[4:8] == b"ftyp":
        return "avif" if beginning[8:11] == b"avi" else "heic"
    raise InvalidRequestError(f"{param!r} has an unknown image format. Supported: {_IMAGE_FORMATS}.", param=param)
