"""The arguments of tool calls for APIs that have objects where OpenAI has JSON text."""

import re
from typing import Any, Final

import orjson

from berth.canonical import Json

_MARKS: Final = re.compile(r'\\.|["{}\[\]\\]', re.DOTALL)


def arguments_object(text: Any) -> Json | None:
    """The arguments of a call; {} where it has none. None for text that is not a JSON object: the response was
    truncated, or the model wrote invalid JSON.
    """
    if not text or not text.strip():
        return {}
    try:
        arguments = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else None


class StreamedArguments:
    """The arguments of a call, as far as they have arrived. However many pieces they come in, each is looked at once,
    and the text is parsed once.
    """

    __slots__ = ("_depth", "_ended", "_escaped", "_in_string", "_is_object", "_scanned", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []  # none of them empty
        self._scanned = 0  # number of pieces
        self._depth = 0  # of open brackets
        self._in_string = False
        self._escaped = False  # the last piece ended in the middle of an escape
        self._ended = False  # the first bracket was closed
        self._is_object: bool | None = None  # None: not known yet

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def is_complete(self) -> bool:
        """They are a JSON object: only white space can follow."""
        while self._scanned < len(self.pieces):
            self._scan(self.pieces[self._scanned])
            self._scanned += 1
        if self._ended and self._is_object is None:
            self._is_object = arguments_object(self.text) is not None
        return bool(self._is_object)

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
