"""Ollama's streams: one JSON object per line, from canonical frames.

Nearly all parts differ in nothing but their text and time: those are written around the text of the frame, which is
not parsed. A tool call goes out whole, in one part with the others, before the end.
"""

import time
from typing import Any

import orjson

from berth.apis.ollama.response import (
    NS_PER_S,
    Shape,
    begun_ns,
    ending,
    error_body,
    escaped,
    logprobs_of,
    one_line,
    rfc3339,
    tool_calls,
    usage_of,
)
from berth.canonical import InferenceRequest, Json, Operation, Usage
from berth.errors import ApiError
from berth.frame_template import TEXT_KEYS, FrameTemplate, template_with_ends
from berth.sse import data_of, frames_of

_CONTENT_KEY, _TEXT_KEY = TEXT_KEYS


class OllamaStream:
    """The encoder of one streamed answer, of chat's or generate's shape."""

    __slots__ = (
        "_after",
        "_before",
        "_beginning",
        "_begun_ns",
        "_calls",
        "_finish_reason",
        "_first_ns",
        "_head",
        "_key",
        "_over",
        "_second",
        "_shape",
        "_template",
        "_usage",
    )

    plain = False

    def __init__(self, request: InferenceRequest, shape: Shape) -> None:
        self._shape = shape
        self._begun_ns = begun_ns(request)
        self._key = _CONTENT_KEY if request.operation is Operation.CHAT else _TEXT_KEY
        self._head = escaped(b'{"model":' + orjson.dumps(request.model) + b',"created_at":"')
        self._second = -1  # that of the last part; what its time begins with need not be written again
        self._beginning = b""  # of parts of this second
        self._before, self._after = b'Z",' + shape.before, shape.after
        self._template: FrameTemplate | None = None  # of frames that have nothing but text
        self._calls: dict[int, _Call] = {}  # by the index in the frames
        self._usage = Usage()
        self._finish_reason: str | None = None
        self._first_ns: int | None = None  # from the beginning to the first token
        self._over = False

    def feed(self, frames: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frames):
            return self._written(template.text(frames))
        return b"".join([self._fed(frame) for frame in frames_of(frames)])

    def fail(self, error: ApiError) -> bytes:
        """The official clients raise on such a line; a stream that just stopped would pass for a complete one."""
        if self._over:
            return b""
        self._over = True
        return one_line(error_body(error))

    def heartbeat(self, text: str) -> bytes:  # noqa: ARG002 - there is no place for it: a StreamEncoder's signature
        """A part that says nothing: clients stumble over an empty line, and none passes over a comment."""
        return b"" if self._over else self._part(self._shape.says(""))

    def _written(self, text: bytes) -> bytes:
        """`text`: as JSON writes it."""
        if not text:
            return b""
        if not text.isascii():
            text = escaped(text)
        second, rest_ns = divmod(time.time_ns(), NS_PER_S)
        if second != self._second:
            self._turn(second)
        return b"%b%06d%b%b%b" % (self._beginning, rest_ns // 1000, self._before, text, self._after)

    def _part(self, says: Json, end: Json | None = None) -> bytes:
        second, rest_ns = divmod(time.time_ns(), NS_PER_S)
        if second != self._second:
            self._turn(second)
        rest = one_line(orjson.dumps({**says, **(end or {"done": False})}))
        return b'%b%06dZ",%b' % (self._beginning, rest_ns // 1000, rest[1:])

    def _turn(self, second: int) -> None:
        self._second = second
        self._beginning = self._head + rfc3339(second) + b"."

    def _fed(self, frame: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frame):
            return self._written(template.text(frame))
        data = data_of(frame)
        if not data or self._over:
            return b""
        if data == b"[DONE]":
            return self._end()
        chunk = orjson.loads(data)
        if chunk.get("usage"):
            self._usage = usage_of(chunk["usage"])
        choices = chunk.get("choices")
        return self._read(choices[0], frame) if choices else b""

    def _read(self, choice: Json, frame: bytes) -> bytes:
        delta = choice.get("delta") or {}
        text, thinking = delta.get("content") or choice.get("text") or "", delta.get("reasoning") or ""
        for call in delta.get("tool_calls") or ():
            self._calls.setdefault(call.get("index", 0), _Call()).add(call)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if self._first_ns is None and (text or thinking or self._calls):
            self._first_ns = time.monotonic_ns() - self._begun_ns
        if not text and not thinking:
            return b""
        says = self._shape.says(text, thinking)
        if logprobs := logprobs_of(choice):
            says["logprobs"] = logprobs
        elif not (thinking or delta.get("tool_calls") or choice.get("finish_reason")):
            self._template = template_with_ends(frame, self._key, b"", b"") or self._template
        return self._part(says)

    def _end(self) -> bytes:
        self._over = True
        self._template = None
        calls, rest = tool_calls([call.made() for _, call in sorted(self._calls.items())])
        said = self._part(self._shape.says(rest, calls=calls)) if calls or rest else b""
        taken_ns = time.monotonic_ns() - self._begun_ns
        return said + self._part(
            self._shape.says(""), ending(self._finish_reason, self._usage, taken_ns, self._first_ns)
        )


class _Call:
    """A tool call whose arguments come in pieces."""

    __slots__ = ("_id", "_name", "_pieces")

    def __init__(self) -> None:
        self._id: str | None = None
        self._name = ""
        self._pieces: list[str] = []

    def add(self, delta: Json) -> None:
        function: dict[str, Any] = delta.get("function") or {}
        self._id = self._id or delta.get("id")
        self._name = self._name or function.get("name") or ""
        self._pieces.append(function.get("arguments") or "")

    def made(self) -> tuple[str | None, str, str]:
        return self._id, self._name, "".join(self._pieces)
