"""The common part of encoders whose streams are not OpenAI's.

Frames that hold nothing but text match a template and are not parsed: `feed` of the subclass handles them first, so
that such a frame costs no further call. All other frames are parsed here.
"""

from abc import ABC, abstractmethod
from typing import Final

from berth import json_text
from berth.apis.base import EncodingError
from berth.canonical import Json
from berth.frame_template import FrameTemplate
from berth.sse import data_of, frames_of

_LINE_ENDS: Final = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}


class TranslatedStream(ABC):
    __slots__ = ("_over", "_template")

    plain = False

    def __init__(self) -> None:
        self._template: FrameTemplate | None = None  # of frames that hold nothing but text
        self._over = False  # the client's stream has ended

    @abstractmethod
    def feed(self, frames: bytes) -> bytes:
        """As StreamEncoder's."""

    def _feed_parsed(self, frames: bytes) -> bytes:
        """For `feed`: complete frames, or one frame, that did not match the template. Whatever goes wrong is an
        EncodingError: what engines send is beyond any list of exceptions.
        """
        parts = frames_of(frames)
        if len(parts) != 1:
            sent: list[bytes] = []
            try:
                sent.extend(map(self.feed, parts))
            except EncodingError as exc:
                raise EncodingError(str(exc), b"".join(sent)) from exc
            return b"".join(sent)
        data = data_of(parts[0])
        if not data or self._over:
            return b""  # a comment
        try:
            if data != b"[DONE]":
                return self.translate(json_text.loads(data), parts[0])
            ended = self.end()
        except Exception as exc:
            raise EncodingError(str(exc) or repr(exc)) from exc
        self._over, self._template = True, None  # only now: until the end is written, `fail` is possible
        return ended

    @abstractmethod
    def translate(self, chunk: Json, frame: bytes) -> bytes:
        """The client's bytes for a chunk; `frame` is what it was parsed from."""

    @abstractmethod
    def end(self) -> bytes:
        """The end of the client's stream. It is over when this returns."""


def escape_line_ends(json: bytes) -> bytes:
    """JSON in which no character ends a line: the official Python clients split lines at these three too."""
    for raw, escape in _LINE_ENDS.items():
        json = json.replace(raw, escape)
    return json
