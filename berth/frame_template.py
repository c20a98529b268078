"""Frames of a stream that differ in nothing but their text: recognised by their ends, and written anew around the text.

Nearly all frames of a streamed answer are of this kind. What stands before and after the text is learned from the first
such frame that was parsed; a later frame with the same ends, and no quote between them, has the same form and need not
be parsed: its text, as JSON writes it, goes between the ends that the reader of the new frame expects.
"""

from typing import Final

_BACKSLASH: Final = 0x5C
# What the text of a canonical frame stands behind.
TEXT_KEYS: Final = (b'"content":"', b'"text":"')


class FrameTemplate:
    """What stands around the text of such frames: as they come, and as they are passed on."""

    __slots__ = ("_cut", "_end", "_least", "_plain", "_shown_end", "_shown_start", "_start", "_tail")

    def __init__(self, start: bytes, end: bytes, shown_start: bytes, shown_end: bytes) -> None:
        self._start, self._end = start, end
        self._shown_start, self._shown_end = shown_start, shown_end
        self._plain = (start, end) == (shown_start, shown_end)
        self._cut, self._tail = len(start), -len(end)  # the text is frame[cut:tail]
        self._least = len(start) + len(end)

    def matches(self, frame: bytes) -> bool:
        """Only a whole frame does: the text holds no quote, and so what stands at the end is the end."""
        return (
            frame.endswith(self._end)
            and frame.startswith(self._start)
            and len(frame) >= self._least
            and frame.find(b'"', self._cut, self._tail) < 0
            and frame[self._tail - 1] != _BACKSLASH  # it would escape the quote that ends the text
        )

    def text(self, frame: bytes) -> bytes:
        """As JSON writes it."""
        return frame[self._cut : self._tail]

    def render(self, frame: bytes) -> bytes:
        return frame if self._plain else self._shown_start + frame[self._cut : self._tail] + self._shown_end


def learn_template(frame: bytes, shown: bytes) -> FrameTemplate | None:
    """Of two canonical frames: as the engine wrote it and as the client reads it. None where the text is not found in
    both for certain.
    """
    for key in TEXT_KEYS:
        if frame.count(key) == shown.count(key) == 1:
            (start, text, end), (shown_start, shown_text, shown_end) = parts(frame, key), parts(shown, key)
            if text == shown_text and b"\\" not in text:
                return FrameTemplate(start, end, shown_start, shown_end)
    return None


def template_with_ends(frame: bytes, key: bytes, shown_start: bytes, shown_end: bytes) -> FrameTemplate | None:
    """Of a canonical frame whose text stands behind `key`, for a client that reads `shown_start`, the text as JSON
    writes it (without quotes), `shown_end`. None where the text is not found for certain.
    """
    if frame.count(key) != 1:
        return None
    start, text, end = parts(frame, key)
    return None if b"\\" in text else FrameTemplate(start, end, shown_start, shown_end)


def parts(frame: bytes, key: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands before the text of that key, the text, and what stands after it; quotes are not the text's."""
    start = frame.index(key) + len(key)
    end = frame.index(b'"', start)
    return frame[:start], frame[start:end], frame[end:]
