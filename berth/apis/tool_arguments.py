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

_MARKS: Final = re.compile(r'\\.|["{}\[\]\\]', re.DOTALL)


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


class StreamedArguments:
    """The arguments of a call, as far as they have arrived. However many pieces they come in, each is looked at once,
    and the text is parsed once.
    """

    __slots__ = ("_depth", "_ended", "_escaped", "_first", "_in_string", "_is_object", "_scanned", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []  # none of them empty
        self._scanned = 0  # number of pieces
        self._first = ""  # character that is no white space
        self._depth = 0  # of open brackets
        self._in_string = False
        self._escaped = False  # the last piece ended in the middle of an escape
        self._ended = False  # the first bracket was closed
        self._is_object: bool | None = None  # None: not known yet

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def begin_object(self) -> bool:
        """They may still be none, but begin like one."""
        self._scan_new()
        return self._first == "{"

    def is_complete(self) -> bool:
        """They are a JSON object: only white space can follow."""
        self._scan_new()
        if self._ended and self._is_object is None:
            self._is_object = arguments_text(self.text) is not None
        return bool(self._is_object)

    def _scan_new(self) -> None:
        while self._scanned < len(self.pieces):
            piece = self.pieces[self._scanned]
            self._scanned += 1
            self._first = self._first or piece.lstrip()[:1]
            if self._first == "{":
                self._scan(piece)

    def _scan(self, piece: str) -> None:
        if self._ended:
            if piece.strip():
                self._is_object = False
            return
        position = 1 if self._escaped else 0
        self._escaped = False
        for mark in _MARKS.finditer(piece, position):
            match mark[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    self._escaped = True
                case "{" | "[" if not self._in_string:
                    self._depth += 1
                case "}" | "]" if not self._in_string:
                    self._depth -= 1
                    if self._depth <= 0:
                        self._ended = True
                        return


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
