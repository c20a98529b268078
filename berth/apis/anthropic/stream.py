"""A streamed answer as Anthropic's events.

Clients are strict: one message_start; blocks one after the other, each of one kind from its start, numbered without a
gap; event names in front of all data; no empty deltas; one message_stop, or an error.

Engines are not: calls of several tools may come interleaved, text may come between them. So the input of the first
unfinished call is passed on as it comes; what belongs behind it waits until that input is a whole JSON object, or the
answer ends.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

from berth.apis.anthropic.errors import error_object
from berth.apis.anthropic.response import (
    arguments_of,
    ending,
    hides_thinking,
    opening,
    reasoning_of,
    signature,
    tool_use,
    usage_of,
)
from berth.apis.anthropic.tools import long_names
from berth.canonical import InferenceRequest, Json
from berth.errors import ApiError
from berth.frame_template import FrameTemplate, template_with_ends
from berth.sse import comment, data_of, frame

Said = Literal["text", "thinking"]
_TEXT_KEY: Final = b'"content":"'
_DELTA: Final = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%s":'
_KINDS: Final = {
    "text": b'text_delta","text',
    "thinking": b'thinking_delta","thinking',
    "tool_use": b'input_json_delta","partial_json',
}
_DELTA_END: Final = b"}}\n\n"
_PING: Final = frame(b'{"type":"ping"}', event=b"ping")
_STOP: Final = frame(b'{"type":"message_stop"}', event=b"message_stop")
# A stream whose frames never look alike is not looked at for ever.
_MOST_TEMPLATES: Final = 16


@dataclass(slots=True)
class _Call:
    """One call of a tool, as far as it has come."""

    id: object
    name: object
    pieces: list[str] = field(default_factory=list)  # of its input
    shown: int = 0  # pieces that are out
    opened: bool = False

    @property
    def input(self) -> str:
        return "".join(self.pieces)

    def is_whole(self) -> bool:
        """Nothing can follow that belongs to it."""
        return bool(self.pieces) and self.pieces[-1].rstrip().endswith("}") and arguments_of(self.input) is not None


class AnthropicStream:
    """A StreamEncoder."""

    __slots__ = (
        "_before",
        "_broken",
        "_calls",
        "_choice",
        "_done",
        "_empty",
        "_held",
        "_hides_thinking",
        "_id",
        "_index",
        "_kind",
        "_names",
        "_over",
        "_request",
        "_space",
        "_template",
        "_templates_made",
        "_usage",
    )

    plain = False

    def __init__(self, request: InferenceRequest) -> None:
        self._request = request
        self._names = long_names(request.original)
        self._hides_thinking = hides_thinking(request)
        self._id: str | None = None  # of the message; None: it has not begun
        self._index = 0  # of the open block, or of the next
        self._kind: str | None = None  # of the open block
        self._before = b""  # what stands before the text in the deltas of the open block
        self._space: dict[Said, str] = {}  # white space that only counts if something follows
        self._calls: dict[int, _Call] = {}  # in the order in which they began
        self._done = 0  # calls that are out
        self._broken = False  # the input of a call is not whole
        self._held: list[tuple[Said, str]] = []  # waits for the end of the calls
        self._choice: Json = {}  # the one that has the finish_reason
        self._usage: Json | None = None
        self._over = False
        self._template: FrameTemplate | None = None  # of the open block's deltas, when it is text
        self._empty = 0  # the length of a delta without text
        self._templates_made = 0

    def feed(self, frames: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frames):
            shown = template.render(frames)
            return shown if len(shown) > self._empty else b""
        return b"".join([self._frame(part + b"\n\n") for part in frames.split(b"\n\n") if part])

    def fail(self, error: ApiError) -> bytes:
        if self._over:
            return b""
        self._over = True
        self._template = None
        return _event(error_object(error))

    def heartbeat(self, text: str) -> bytes:
        """Clients pass over `ping` in any state; the text is for the curious."""
        return b"" if self._over else comment(text) + _PING

    def _frame(self, frame: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frame):
            shown = template.render(frame)
            return shown if len(shown) > self._empty else b""
        data = data_of(frame)
        if not data or self._over:
            return b""
        if data == b"[DONE]":
            return self._end()
        return self._read(frame, orjson.loads(data))

    def _read(self, frame: bytes, chunk: Json) -> bytes:
        shown = [] if self._id is not None else [self._begin(chunk.get("id"))]
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            reasoning, text, calls = reasoning_of(delta), delta.get("content"), delta.get("tool_calls")
            shown += [self._say("thinking", reasoning), self._say("text", text)]
            shown += [self._call(call) for call in calls or ()]
            if choice.get("finish_reason") is not None:
                self._choice = choice
            elif text and self._kind == "text" and not (reasoning or calls or chunk.get("usage")):
                self._learn(frame)
        return b"".join(shown)

    def _begin(self, answer_id: object) -> bytes:
        message = opening(self._request, answer_id)
        self._id = message["id"]
        return _event({"type": "message_start", "message": message})

    def _learn(self, frame: bytes) -> None:
        """The frame said nothing but text."""
        if self._templates_made < _MOST_TEMPLATES:
            self._templates_made += 1
            start, end = self._before + b'"', b'"' + _DELTA_END
            self._template = template_with_ends(frame, _TEXT_KEY, start, end)
            self._empty = len(start) + len(end)

    def _say(self, kind: Said, text: object) -> bytes:
        if not isinstance(text, str) or not text:
            return b""
        shown = b""
        if self._done < len(self._calls):
            if not all(call.is_whole() for call in self._unfinished()):
                self._held.append((kind, text))
                return b""
            shown = self._advance(final=True)
        if self._kind != kind:
            text = self._space.pop(kind, "") + text
            if not text.strip():
                self._space[kind] = text
                return shown
            shown += self._close()
            shown += self._open(kind, {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})})
        return shown + self._delta(text)

    def _call(self, delta: Json) -> bytes:
        function = delta.get("function") or {}
        index = delta.get("index", 0)
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = _Call(delta.get("id"), function.get("name"))
        if function.get("arguments"):
            call.pieces.append(function["arguments"])
        return self._advance(final=False)

    def _unfinished(self) -> list[_Call]:
        return list(self._calls.values())[self._done :]

    def _advance(self, *, final: bool) -> bytes:
        """What can go out of the calls; `final`: all of it."""
        shown = []
        for call in self._unfinished():
            shown.append(self._show(call))
            last = self._done == len(self._calls) - 1
            if not final and (last or not call.is_whole()):
                break
            shown.append(self._finish(call))
        return b"".join(shown)

    def _show(self, call: _Call) -> bytes:
        """The call so far. Input that does not begin as an object does is kept for `_finish` to judge."""
        shown = b""
        if not call.opened:
            call.opened = True
            shown = self._close()
            shown += self._open("tool_use", tool_use(self._id or "", self._index, call.id, call.name, self._names))
        new = "".join(call.pieces[call.shown :])
        if not new or not (call.shown or new.lstrip().startswith("{")):
            return shown
        call.shown = len(call.pieces)
        return shown + self._delta(new)

    def _finish(self, call: _Call) -> bytes:
        """Clients read the input from the deltas alone, so there is one even if it is empty."""
        self._done += 1
        self._broken |= arguments_of(call.input) is None
        return (b"" if call.shown else self._delta("{}")) + self._close()

    def _open(self, kind: str, block: Json) -> bytes:
        self._kind = kind
        self._before = _DELTA % (self._index, _KINDS[kind])
        return _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _delta(self, text: str) -> bytes:
        if self._hides_thinking and self._kind == "thinking":
            return b""
        return self._before + orjson.dumps(text) + _DELTA_END

    def _close(self) -> bytes:
        if self._kind is None:
            return b""
        shown = b""
        if self._kind == "thinking":
            signed = {"type": "signature_delta", "signature": signature(self._id or "", self._index)}
            shown = _event({"type": "content_block_delta", "index": self._index, "delta": signed})
        shown += _event({"type": "content_block_stop", "index": self._index})
        self._kind = self._template = None
        self._index += 1
        return shown

    def _end(self) -> bytes:
        shown = [] if self._id is not None else [self._begin(None)]
        shown.append(self._advance(final=True))
        shown += [self._say(kind, text) for kind, text in self._held]
        shown.append(self._close())
        why = ending(self._request, self._choice, self._usage, called=bool(self._calls), broken=self._broken)
        shown.append(_event({"type": "message_delta", "delta": why, "usage": usage_of(self._usage)}))
        self._over = True
        return b"".join([*shown, _STOP])


def _event(document: Json) -> bytes:
    return frame(orjson.dumps(document), event=document["type"].encode())
