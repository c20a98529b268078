"""Ollama's streams: one JSON object per line, from canonical frames.

Nearly all parts differ only in their text and time. Those are spliced around the text of the frame, which is not
parsed. Tool calls are sent complete, in one part before the end.
"""

import time
from typing import Any

from berth import json_text
from berth.apis.ollama.request import begun_ns
from berth.apis.ollama.response import (
    NS_PER_S,
    Shape,
    error_body,
    final_fields,
    logprobs_of,
    one_line,
    rfc3339,
    tool_calls,
)
from berth.apis.translated_stream import TranslatedStream, escape_line_ends
from berth.apis.usage import usage_of
from berth.canonical import CHAT, InferenceRequest, Json, Usage
from berth.errors import ApiError
from berth.frame_template import TEXT_KEYS, template_with_ends

_CONTENT_KEY, _TEXT_KEY = TEXT_KEYS


class OllamaStream(TranslatedStream):
    """The encoder of one streamed response, in the shape of chat or generate."""

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
        "_second",
        "_shape",
        "_usage",
    )

    def __init__(self, request: InferenceRequest, shape: Shape) -> None:
        super().__init__()
        self._shape = shape
        self._begun_ns = begun_ns(request)
        self._key = _CONTENT_KEY if request.operation is CHAT else _TEXT_KEY
        self._head = escape_line_ends(b'{"model":' + json_text.dumps(request.model) + b',"created_at":"')
        self._second = -1  # of the last part
        self._beginning = b""  # the bytes of all parts of this second, up to its fraction
        self._before, self._after = b'Z",' + shape.before, shape.after
        self._calls: dict[int, _PartialCall] = {}  # by the index in the frames
        self._usage = Usage()
        self._finish_reason: str | None = None
        self._first_ns: int | None = None  # the time to the first token

    def feed(self, frames: bytes) -> bytes:
        template = self._template
        if template is None or not template.matches(frames):
            return self._feed_parsed(frames)
        text = template.text(frames)
        if not text.isascii():
            text = escape_line_ends(text)
        second, rest_ns = divmod(time.time_ns(), NS_PER_S)
        if second != self._second:
            self._begin_second(second)
        return b"%b%06d%b%b%b" % (self._beginning, rest_ns // 1000, self._before, text, self._after)

    def fail(self, error: ApiError) -> bytes:
        """The official clients raise on such a line. A stream that merely stops would pass for a complete one."""
        if self._over:
            return b""
        self._over = True
        return one_line(error_body(error))

    def heartbeat(self, text: str) -> bytes:
        """A part without text: clients fail on an empty line, and do not know comments."""
        return b"" if self._over else self._part(self._shape.fields(""))

    def _part(self, fields: Json, final: Json | None = None) -> bytes:
        second, rest_ns = divmod(time.time_ns(), NS_PER_S)
        if second != self._second:
            self._begin_second(second)
        rest = one_line(json_text.dumps({**fields, **(final or {"done": False})}))
        return b'%b%06dZ",%b' % (self._beginning, rest_ns // 1000, rest[1:])

    def _begin_second(self, second: int) -> None:
        self._second = second
        self._beginning = self._head + rfc3339(second) + b"."

    def translate(self, chunk: Json, frame: bytes) -> bytes:
        if chunk.get("usage"):
            self._usage = usage_of(chunk["usage"])
        if not chunk.get("choices"):
            return b""
        choice = chunk["choices"][0]
        delta = choice.get("delta") or {}
        calls = delta.get("tool_calls") or ()
        for call in calls:
            self._calls.setdefault(call.get("index", 0), _PartialCall()).add(call)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        text = delta.get("content") or choice.get("text") or ""
        thinking = delta.get("reasoning") or ""
        if self._first_ns is None and (text or thinking or self._calls):
            self._first_ns = time.monotonic_ns() - self._begun_ns
        if not text and not thinking:
            return b""
        fields = self._shape.fields(text, thinking)
        if logprobs := logprobs_of(choice):
            fields["logprobs"] = logprobs
        elif not thinking and not calls and not choice.get("finish_reason"):
            self._template = template_with_ends(frame, self._key, b"", b"") or self._template
        return self._part(fields)

    def end(self) -> bytes:
        calls, rest = tool_calls([call.joined() for _, call in sorted(self._calls.items())])
        sent = self._part(self._shape.fields(rest, calls=calls)) if calls or rest else b""
        taken_ns = time.monotonic_ns() - self._begun_ns
        final = final_fields(self._finish_reason, self._usage, taken_ns, self._first_ns)
        return sent + self._part(self._shape.fields(""), final)


class _PartialCall:
    """A tool call whose arguments arrive in pieces."""

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

    def joined(self) -> tuple[str | None, str, str]:
        """Id, name and arguments."""
        return self._id, self._name, "".join(self._pieces)
