"""The arguments of tool calls for APIs that have objects where OpenAI has JSON text.

The text stays as the model wrote it: it is embedded, not parsed and written again. The objects that a client sends back
become text as the client wrote them (`keep_inputs`, `keep_arguments`).
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from berth import json_text
from berth.canonical import Json

_MARKS: Final = re.compile(r'\\.|\\$|["{}\[\]]', re.DOTALL)


def arguments_text(text: Any) -> str | None:
    """The JSON text of an object, to be embedded; {} where the call has no arguments. None for any other text: the
    response was truncated, or the model wrote something else.
    """
    stripped = text.strip() if isinstance(text, str) else ""
    if stripped in ("", "null"):
        return "{}"
    return json_text.embeddable(stripped) if stripped.startswith("{") else None


def call_as_text(name: Any, text: str) -> str:
    """A call whose arguments are no object, for the user to read."""
    return f'{{"name": {json_text.dumps(str(name or "")).decode()}, "arguments": {text}}}'


class ObjectEnd:
    """Finds the end of a JSON object that arrives in pieces, each of which is looked at once."""

    __slots__ = ("_depth", "_escaped", "_in_string", "_pieces")

    def __init__(self) -> None:
        self._pieces = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False  # by a backslash at the end of the last piece

    def reached(self, pieces: list[str]) -> bool:
        """`pieces` are the same as the last time, and maybe more."""
        new = "".join(pieces[self._pieces :])
        self._pieces = len(pieces)
        begin = int(self._escaped and new != "")
        self._escaped = self._escaped and not begin
        for mark in _MARKS.findall(new, begin):
            if mark == '"':
                self._in_string = not self._in_string
            elif mark == "\\":
                self._escaped = True
            elif not self._in_string and len(mark) == 1:
                self._depth += 1 if mark in "{[" else -1
        return self._depth == 0 and not self._in_string and any(pieces)


class _Block(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw()


class _BlockMessage(msgspec.Struct):
    content: str | list[_Block] | None = None


class _Blocks(msgspec.Struct):
    messages: list[_BlockMessage]


class _Function(msgspec.Struct):
    arguments: msgspec.Raw = msgspec.Raw()


class _Call(msgspec.Struct):
    function: _Function | None = None


class _CallMessage(msgspec.Struct):
    tool_calls: list[_Call] | None = None


class _Calls(msgspec.Struct):
    messages: list[_CallMessage]


_BLOCKS: Final = msgspec.json.Decoder(_Blocks)
_CALLS: Final = msgspec.json.Decoder(_Calls)


def keep_inputs(document: Json, body: bytes) -> None:
    """The inputs of `tool_use` blocks in a document just read from `body` keep their text."""
    try:
        messages = _BLOCKS.decode(body).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # reported, or read in another way
        return
    for message, found in zip(document["messages"], messages, strict=False):
        if isinstance(found.content, list):
            _keep(message["content"], "input", (block.input for block in found.content))


def keep_arguments(document: Json, body: bytes) -> None:
    """The same for the arguments of Ollama's `tool_calls`."""
    try:
        messages = _CALLS.decode(body).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    for message, found in zip(document["messages"], messages, strict=False):
        calls, raws = message.get("tool_calls") or (), found.tool_calls or ()
        functions = [call.get("function") or {} for call in calls]
        _keep(functions, "arguments", ((raw.function or _Function()).arguments for raw in raws))


def _keep(holders: list[Json], name: str, texts: Iterable[msgspec.Raw]) -> None:
    for holder, text in zip(holders, texts, strict=False):
        if isinstance(holder.get(name), dict):
            holder[name] = json_text.Spelled(holder[name])
            holder[name].text = bytes(text).decode()
