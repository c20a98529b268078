"""TGI's streams, from canonical frames of a completion: an event for each piece of text, the last one with the whole.

Frames that hold nothing but text are not parsed: what stands between their ends, as JSON writes it, is written between
those of an event, and kept for the last one.
"""

from typing import Final

import orjson

from berth.apis.ollama.response import escaped
from berth.apis.tgi.response import error_body, finish_reason, stream_details, token, tokens_of
from berth.canonical import InferenceRequest, Json, Usage
from berth.errors import ApiError
from berth.frame_template import TEXT_KEYS, FrameTemplate, template_with_ends
from berth.sse import comment, data_of, frames_of

_TEXT_KEY: Final = TEXT_KEYS[1]
_BREAK: Final = b"\n\n"
_EVENT: Final = (
    b'data:{"index":%d,"token":{"id":0,"text":"%b","logprob":0.0,"special":false},'
    b'"generated_text":null,"details":null}\n\n'
)


class TgiStream:
    __slots__ = ("_details", "_index", "_over", "_reason", "_seed", "_template", "_text", "_usage")

    plain = False

    def __init__(self, request: InferenceRequest) -> None:
        original = request.original
        self._details = bool(original.get("details"))
        self._seed: int | None = original.get("seed")
        self._text = [_written(original["inputs"])] if original.get("return_full_text") else []
        self._index = 0
        self._template: FrameTemplate | None = None  # of frames that have nothing but text
        self._reason = "length"
        self._usage = Usage()
        self._over = False

    def feed(self, frames: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frames):
            return self._event(template.text(frames))
        return b"".join([self._fed(frame) for frame in frames_of(frames)])

    def fail(self, error: ApiError) -> bytes:
        if self._over:
            return b""
        self._over = True
        return b"data:" + escaped(error_body(error, cut=self._index > 0)) + _BREAK

    def heartbeat(self, text: str) -> bytes:
        """Clients pass over every line that is no data."""
        return b"" if self._over else comment(text)

    def _event(self, text: bytes) -> bytes:
        """`text`: as JSON writes it."""
        if not text:
            return b""
        if not text.isascii():
            text = escaped(text)
        self._text.append(text)
        self._index += 1
        return _EVENT % (self._index, text)

    def _fed(self, frame: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frame):
            return self._event(template.text(frame))
        data = data_of(frame)
        if not data or self._over:
            return b""
        if data == b"[DONE]":
            return self._end()
        chunk = orjson.loads(data)
        if usage := chunk.get("usage"):
            self._usage = Usage(
                prompt_tokens=usage.get("prompt_tokens") or 0, completion_tokens=usage.get("completion_tokens") or 0
            )
        choices = chunk.get("choices")
        return self._read(choices[0], frame) if choices else b""

    def _read(self, choice: Json, frame: bytes) -> bytes:
        text = choice.get("text") or ""
        if choice.get("finish_reason"):
            self._reason = finish_reason(choice)
        elif text and not self._details:
            self._template = template_with_ends(frame, _TEXT_KEY, b"", b"") or self._template
        if not self._details:
            return self._event(_written(text))
        return b"".join([self._token(one) for one in tokens_of(choice)])

    def _token(self, one: Json) -> bytes:
        self._text.append(_written(one["text"]))
        self._index += 1
        return _sent({"index": self._index, "token": one, "generated_text": None, "details": None})

    def _end(self) -> bytes:
        """TGI's last event carries the token that ended the text: a special one, of no text."""
        self._over = True
        details = stream_details(self._reason, self._usage, self._seed) if self._details else None
        head = {"index": self._index + 1, "token": token("", special=True), "details": details}
        return b'data:%b,"generated_text":"%b"}\n\n' % (orjson.dumps(head)[:-1], b"".join(self._text))


def _written(text: str) -> bytes:
    """As JSON writes it, without quotes."""
    return escaped(orjson.dumps(text))[1:-1]


def _sent(event: Json) -> bytes:
    return b"data:" + escaped(orjson.dumps(event)) + _BREAK
