"""A streamed response as Anthropic's events.

Clients are strict. They expect one message_start, then blocks one after another, each of one kind and numbered without
gaps, an event name before all data, no empty deltas, and one message_stop or error.

Engines are not: tool calls may be interleaved, also with text. So the input of the first unfinished call is sent as it
arrives. Whatever comes after that call is held until its input is a complete JSON object, or the response ends.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

from berth import json_text
from berth.apis.anthropic.errors import error_object
from berth.apis.anthropic.response import (
    empty_message,
    hides_thinking,
    reasoning_of,
    signature,
    stop_fields,
    tool_use,
    usage_fields,
)
from berth.apis.anthropic.tools import long_names
from berth.apis.stream_events import ANTHROPIC
from berth.apis.tool_arguments import StreamedArguments, arguments_text, call_as_text
from berth.apis.translated_stream import TranslatedStream
from berth.canonical import InferenceRequest, Json
from berth.errors import ApiError, UpstreamError
from berth.frame_template import template_with_ends
from berth.sse import comment, frame

TextKind = Literal["text", "thinking"]
_TEXT_KEY: Final = b'"content":"'
_DELTA: Final = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%s":'
_KINDS: Final = {
    "text": b'text_delta","text',
    "thinking": b'thinking_delta","thinking',
    "tool_use": b'input_json_delta","partial_json',
}
_DELTA_END: Final = b"}}\n\n"
_PING: Final = frame(b'{"type":"ping"}', event=b"ping")
_STOP: Final = frame(json_text.dumps({"type": ANTHROPIC.complete[0]}), event=ANTHROPIC.complete[0].encode())
_MAX_TEMPLATES: Final = 16  # per stream: frames that never look alike are parsed


@dataclass(slots=True)
class _Call:
    """A tool call, as far as it has arrived."""

    id: object
    name: object
    input: StreamedArguments = field(default_factory=StreamedArguments)
    sent: int = 0  # number of pieces
    opened: bool = False


class AnthropicStream(TranslatedStream):
    __slots__ = (
        "_before",
        "_broken",
        "_called",
        "_calls",
        "_choice",
        "_finished_calls",
        "_held",
        "_hides_thinking",
        "_id",
        "_in_order",
        "_index",
        "_kind",
        "_names",
        "_request",
        "_space",
        "_templates_made",
        "_usage",
    )

    def __init__(self, request: InferenceRequest) -> None:
        super().__init__()
        self._request = request
        self._names = long_names(request.original)
        self._hides_thinking = hides_thinking(request)
        self._id: str | None = None  # of the message; None before its start
        self._index = 0  # of the open block, or of the next
        self._kind: str | None = None  # of the open block
        self._before = b""  # the bytes before the text in the deltas of the open block
        self._space: dict[TextKind, list[str]] = {}  # white space, sent only if other text follows
        self._calls: dict[int, _Call] = {}
        self._in_order: list[_Call] = []  # of their beginning
        self._finished_calls = 0
        self._called = False  # there is a block of a call
        self._broken: _Call | None = None  # the input of this call was sent, at least in part, and is no JSON object
        self._held: list[tuple[TextKind, str]] = []  # sent after the calls
        self._choice: Json = {}  # the one with the finish_reason
        self._usage: Json | None = None
        self._templates_made = 0

    def feed(self, frames: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frames):
            return template.render(frames)
        return self._feed_parsed(frames)

    def fail(self, error: ApiError) -> bytes:
        if self._over:
            return b""
        self._over = True
        self._template = None
        return _event(error_object(error))

    def heartbeat(self, text: str) -> bytes:
        """Clients ignore `ping` in any state; the text is for human readers."""
        return b"" if self._over else comment(text) + _PING

    def translate(self, chunk: Json, frame: bytes) -> bytes:
        sent = [self._start(chunk.get("id"))]
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            reasoning, text, calls = reasoning_of(delta), delta.get("content"), delta.get("tool_calls") or ()
            sent += [self._add_text("thinking", reasoning), self._add_text("text", text)]
            for part in calls:
                function, index = part.get("function") or {}, part.get("index", 0)
                if index not in self._calls:
                    self._calls[index] = _Call(part.get("id"), function.get("name"))
                    self._in_order.append(self._calls[index])
                if function.get("arguments"):
                    self._calls[index].input.pieces.append(function["arguments"])
                sent.append(self._send_calls(final=False))
            if choice.get("finish_reason") is not None:
                self._choice = choice
                continue
            only_text = text and not reasoning and not calls and not usage
            if only_text and self._kind == "text" and self._templates_made < _MAX_TEMPLATES:
                self._templates_made += 1
                self._template = template_with_ends(frame, _TEXT_KEY, self._before + b'"', b'"' + _DELTA_END)
        return b"".join(sent)

    def _start(self, response_id: object) -> bytes:
        """The event before all others, once."""
        if self._id is not None:
            return b""
        message = empty_message(self._request, response_id)
        self._id = message["id"]
        return _event({"type": "message_start", "message": message})

    def _add_text(self, kind: TextKind, text: object) -> bytes:
        if not isinstance(text, str) or not text:
            return b""
        sent = b""
        if self._finished_calls < len(self._calls):
            # The last one is not finished before something follows it; any other as soon as it is complete.
            unfinished = self._in_order[self._finished_calls]
            if unfinished is not self._in_order[-1] or not unfinished.input.is_complete():
                self._held.append((kind, text))
                return b""
            sent = self._send_calls(final=True)
        if self._kind != kind:
            space = self._space.setdefault(kind, [])
            space.append(text)
            if not text.strip():
                return sent
            text = "".join(space)
            space.clear()
            sent += self._close_block()
            block = {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}
            sent += self._open_block(kind, block)
        return sent + self._delta(text)

    def _send_calls(self, *, final: bool) -> bytes:
        """The calls up to the first incomplete one; all of them where `final`."""
        sent = []
        while self._finished_calls < len(self._in_order):
            call = self._in_order[self._finished_calls]
            if call.opened or call.input.begin_object():
                new = "".join(call.input.pieces[call.sent :])
                sent += [self._open_call(call), self._delta(new) if new else b""]
                call.sent = len(call.input.pieces)
            last = self._finished_calls == len(self._calls) - 1
            if not final and (last or not call.input.is_complete()):
                break
            self._finished_calls += 1
            sent += [self._finish_call(call), self._close_block()]
        return b"".join(sent)

    def _open_call(self, call: _Call) -> bytes:
        """Its block, once: with the first of its input, which shows whether it is an object."""
        if call.opened:
            return b""
        call.opened = self._called = True
        closed = self._close_block()
        block = tool_use(self._id or "", self._index, call.id, call.name, self._names)
        return closed + self._open_block("tool_use", block)

    def _finish_call(self, call: _Call) -> bytes:
        """What is left of a call. One whose input is no object becomes text, unless it was sent or cut."""
        given = call.input.text
        if arguments_text(given) is None:
            if not call.opened and self._choice.get("finish_reason") != "length":
                block = self._close_block() + self._open_block("text", {"type": "text", "text": ""})
                return block + self._delta(call_as_text(call.name, given))
            self._broken = call
        if call.opened:
            return b""
        return self._open_call(call) + self._delta("{}")  # clients read the input from the deltas alone

    def _open_block(self, kind: str, block: Json) -> bytes:
        self._kind = kind
        self._before = _DELTA % (self._index, _KINDS[kind])
        return _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _delta(self, text: str) -> bytes:
        if self._hides_thinking and self._kind == "thinking":
            return b""
        return self._before + json_text.dumps(text) + _DELTA_END

    def _close_block(self) -> bytes:
        if self._kind is None:
            return b""
        sent = b""
        if self._kind == "thinking":
            signed = {"type": "signature_delta", "signature": signature(self._id or "", self._index)}
            sent = _event({"type": "content_block_delta", "index": self._index, "delta": signed})
        sent += _event({"type": "content_block_stop", "index": self._index})
        self._kind = self._template = None
        self._index += 1
        return sent

    def end(self) -> bytes:
        sent = [self._start(None), self._send_calls(final=True)]
        sent += [self._add_text(kind, text) for kind, text in self._held]
        sent.append(self._close_block())
        if self._broken and self._choice.get("finish_reason") != "length":
            message = f"The model called {self._broken.name!r} with arguments that are not a JSON object."
            return b"".join([*sent, _event(error_object(UpstreamError(message)))])
        incomplete = self._broken is not None
        delta = stop_fields(self._request, self._choice, self._usage, called=self._called, incomplete=incomplete)
        sent.append(_event({"type": "message_delta", "delta": delta, "usage": usage_fields(self._usage)}))
        return b"".join([*sent, _STOP])


def _event(document: Json) -> bytes:
    return frame(json_text.dumps(document), event=document["type"].encode())
