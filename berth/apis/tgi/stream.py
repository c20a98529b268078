"""TGI's streams, from canonical frames of a completion: one event per piece of text, the last one with the full text.

The text of frames that hold nothing else is not parsed: still escaped as JSON, it is spliced into an event and kept for
the last one.
"""

from typing import Final

from berth import json_text
from berth.apis.tgi.response import error_body, finish_reason, stream_details, token, tokens_of
from berth.apis.translated_stream import TranslatedStream, escape_line_ends
from berth.apis.usage import usage_of
from berth.canonical import InferenceRequest, Json, Usage
from berth.errors import ApiError
from berth.frame_template import TEXT_KEYS, template_with_ends
from berth.sse import comment

_TEXT_KEY: Final = TEXT_KEYS[1]
_EVENT_END: Final = b"\n\n"
_EVENT: Final = (
    b'data:{"index":%d,"token":{"id":0,"text":"%b","logprob":0.0,"special":false},'
    b'"generated_text":null,"details":null}\n\n'
)


class TgiStream(TranslatedStream):
    __slots__ = ("_details", "_finish_reason", "_index", "_seed", "_text", "_usage")

    def __init__(self, request: InferenceRequest) -> None:
        super().__init__()
        original = request.original
        self._details = bool(original.get("details"))
        self._seed: int | None = original.get("seed")
        self._text = [_escaped(original["inputs"])] if original.get("return_full_text") else []
        self._index = 0
        self._finish_reason = "length"
        self._usage = Usage()

    def feed(self, frames: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frames):
            return self._event(template.text(frames))
        return self._feed_parsed(frames)

    def fail(self, error: ApiError) -> bytes:
        if self._over:
            return b""
        self._over = True
        return b"data:" + escape_line_ends(error_body(error, incomplete=self._index > 0)) + _EVENT_END

    def heartbeat(self, text: str) -> bytes:
        """Clients ignore every line that is not `data:`."""
        return b"" if self._over else comment(text)

    def _event(self, text: bytes) -> bytes:
        """`text` is escaped as JSON."""
        if not text:
            return b""
        if not text.isascii():
            text = escape_line_ends(text)
        self._text.append(text)
        self._index += 1
        return _EVENT % (self._index, text)

    def translate(self, chunk: Json, frame: bytes) -> bytes:
        if usage := chunk.get("usage"):
            self._usage = usage_of(usage)
        if not chunk.get("choices"):
            return b""
        choice = chunk["choices"][0]
        text = choice.get("text") or ""
        if choice.get("finish_reason"):
            self._finish_reason = finish_reason(choice)
        elif text and not self._details:
            self._template = template_with_ends(frame, _TEXT_KEY, b"", b"") or self._template
        if not self._details:
            return self._event(_escaped(text))
        events = []
        for found in tokens_of(choice):
            self._text.append(_escaped(found["text"]))
            self._index += 1
            event = {"index": self._index, "token": found, "generated_text": None, "details": None}
            events.append(b"data:" + escape_line_ends(json_text.dumps(event)) + _EVENT_END)
        return b"".join(events)

    def end(self) -> bytes:
        """TGI's last event carries the token that ended the text: a special one without text."""
        details = stream_details(self._finish_reason, self._usage, self._seed) if self._details else None
        head = {"index": self._index + 1, "token": token("", special=True), "details": details}
        return b'data:%b,"generated_text":"%b"}\n\n' % (json_text.dumps(head)[:-1], b"".join(self._text))


def _escaped(text: str) -> bytes:
    """As in JSON, without quotes."""
    return escape_line_ends(json_text.dumps(text))[1:-1]
