"""Ollama's messages, as the canonical body of a chat has them.

Images lie beside the text as bare base64, arguments of tool calls are objects, and the result of a call names its
function where OpenAI's names the call.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from berth.apis.openai.fields import shown
from berth.canonical import Json
from berth.errors import InvalidRequestError

ROLES: Final = ("system", "user", "assistant", "tool")
_SNIFFED: Final = 16  # bytes of an image
_BEGINNINGS: Final = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
}
_WRAPPING: Final = str.maketrans("", "", "\r\n")  # base64 in lines


@dataclass(slots=True)
class _Calls:
    """The tool calls of a conversation, each with an id, and those of the last assistant's that wait for a result."""

    count: int = 0
    waiting: list[tuple[str, str]] = field(default_factory=list)  # id, name of the function

    def begin(self, calls: list[Json]) -> None:
        self.waiting = [(call["id"], call["function"]["name"]) for call in calls]

    def next_id(self) -> str:
        self.count += 1
        return f"call_{self.count}"

    def answered(self, call_id: str | None, name: str | None) -> str | None:
        """The id of the call that a result belongs to: by id, else by the function's name, else the next in turn."""
        of_name = [waiting for waiting, function in self.waiting if function == name]
        found = call_id or next(iter(of_name or [waiting for waiting, _ in self.waiting]), None)
        self.waiting = [call for call in self.waiting if call[0] != found]
        return found


def chat_messages(messages: list[Any]) -> list[Json]:
    """InvalidRequestError for a list that holds anything but messages."""
    calls = _Calls()
    return [_message(message, f"messages.{place}", calls) for place, message in enumerate(messages)]


def user_message(prompt: str, images: Any, param: str) -> Json:
    return {"role": "user", "content": _content(prompt, images, param)}


def continues_last(messages: list[Json]) -> bool:
    """Ollama goes on with what the assistant has begun to say."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def chat_tools(tools: list[Any]) -> list[Json]:
    return [_tool(tool, f"tools.{place}") for place, tool in enumerate(tools)]


def _message(message: Any, param: str, calls: _Calls) -> Json:
    if not isinstance(message, dict):
        raise InvalidRequestError(f"{param!r} must be an object, not {shown(message)}.", param=param)
    role = message.get("role")
    role = role.lower() if isinstance(role, str) else role
    if role not in ROLES:
        raise _wrong(message.get("role"), f"{param}.role", f"one of {', '.join(ROLES)}")
    content = _text(message, "content", param) or ""
    told: Json = {"role": role, "content": _content(content, message.get("images"), f"{param}.images")}
    if (thinking := _text(message, "thinking", param)) and role == "assistant":
        told["reasoning"] = thinking
    if role == "assistant" and (made := _tool_calls(message.get("tool_calls"), f"{param}.tool_calls", calls)):
        told["tool_calls"] = made
        calls.begin(made)
    if role == "tool":
        told |= _result_of(message, param, calls)
    return told


def _text(message: Json, name: str, param: str) -> str | None:
    value = message.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(value, f"{param}.{name}", "a string")
    return value


def _result_of(message: Json, param: str, calls: _Calls) -> Json:
    name = _text(message, "tool_name", param) or _text(message, "name", param)
    call_id = calls.answered(_text(message, "tool_call_id", param), name)
    return {**({"tool_call_id": call_id} if call_id else {}), **({"name": name} if name else {})}


def _tool_calls(made: Any, param: str, calls: _Calls) -> list[Json]:
    if made is None:
        return []
    if not isinstance(made, list):
        raise _wrong(made, param, "a list of tool calls")
    return [_tool_call(call, f"{param}.{place}", calls) for place, call in enumerate(made)]


def _tool_call(call: Any, param: str, calls: _Calls) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _wrong(call, param, "an object like {'function': {'name': ..., 'arguments': {...}}}")
    given = call.get("id")
    call_id = given if isinstance(given, str) and given else calls.next_id()
    arguments = _arguments(function.get("arguments"), f"{param}.function.arguments")
    return {"id": call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _arguments(arguments: Any, param: str) -> str:
    """As JSON text. Text that is an object already is let through: clients of two APIs send it."""
    if isinstance(arguments, str):
        try:
            found = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            return arguments or "{}"
    if arguments is None or isinstance(arguments, dict):
        return orjson.dumps(arguments or {}).decode()
    raise _wrong(arguments, param, "an object")


def _tool(tool: Any, param: str) -> Json:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _wrong(tool, param, "an object like {'type': 'function', 'function': {'name': ...}}")
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _content(text: str, images: Any, param: str) -> str | list[Json]:
    if images is None or images == []:
        return text
    if not isinstance(images, list):
        raise _wrong(images, param, "a list of images")
    parts: list[Json] = [{"type": "text", "text": text}] if text else []
    urls = [_data_url(image, f"{param}.{place}") for place, image in enumerate(images)]
    return parts + [{"type": "image_url", "image_url": {"url": url}} for url in urls]


def _data_url(image: Any, param: str) -> str:
    if not isinstance(image, str):
        raise _wrong(image, param, "an image in base64")
    data = image.translate(_WRAPPING)
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        beginning = base64.b64decode(data, validate=True)[:_SNIFFED]
    except (binascii.Error, ValueError) as exc:  # ValueError: not even ASCII
        raise _wrong(image, param, "an image in base64") from exc
    return f"data:image/{_kind(beginning, param)};base64,{data}"


def _kind(beginning: bytes, param: str) -> str:
    for start, kind in _BEGINNINGS.items():
        if beginning.startswith(start):
            return kind
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return "webp"
    if beginning[4:8] == b"ftyp":
        return "avif" if beginning[8:11] == b"avi" else "heic"
    raise InvalidRequestError(
        f"{param!r} is none of the images known: JPEG, PNG, GIF, WebP, BMP, TIFF, HEIC, AVIF.", param=param
    )


def _wrong(value: Any, param: str, expected: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param!r} must be {expected}, not {shown(value)}.", param=param)
