"""Fast path for SSE frames that differ only in their text: learn the bytes around it once, then splice without parsing.

Most frames of a stream are such frames. The bytes before and after the text are learned from the first one, which is
parsed. A later frame with the same start and end, and no quote between them, has the same structure: its text, still
escaped as JSON, is put between the start and end that the receiver expects.
"""

from typing import Final

_BACKSLASH: Final = 0x5C
# The keys in front of the text of a canonical frame.
TEXT_KEYS: Final = (b'"content":"', b'"text":"')


class FrameTemplate:
    """The bytes around the text: `start` and `end` as received, `sent_start` and `sent_end` as sent."""

    __slots__ = ("_cut", "_end", "_least", "_plain", "_sent_end", "_sent_start", "_start", "_tail")

    def __init__(self, start: bytes, end: bytes, sent_start: bytes, sent_end: bytes) -> None:
        self._start, self._end = start, end
        self._sent_start, self._sent_end = sent_start, sent_end
        self._plain = (start, end) == (sent_start, sent_end)
        self._cut, self._tail = len(start), -len(end)  # the text is frame[cut:tail]
        self._least = len(start) + len(end)

    def matches(self, frame: bytes) -> bool:
        """True only for one complete frame: without a quote in the text, what follows the text is the learned end."""
        return (
            frame.endswith(self._end)
            and frame.startswith(self._start)
            and len(frame) > self._least  # an empty text is none: its frame says nothing
            and frame.find(b'"', self._cut, self._tail) < 0
            and frame[self._tail - 1] != _BACKSLASH  # it would escape the quote that ends the text
        )

    def text(self, frame: bytes) -> bytes:
        """The text of a matching frame, escaped as JSON."""
        return frame[self._cut : self._tail]

    def render(self, frame: bytes) -> bytes:
        return frame if self._plain else self._sent_start + frame[self._cut : self._tail] + self._sent_end


def learn_template(frame: bytes, sent: bytes) -> FrameTemplate | None:
    """From the same canonical frame as the engine wrote it and as the client reads it. None where the text cannot be
    located in both with certainty.
    """
    for key in TEXT_KEYS:
        if frame.count(key) == sent.count(key) == 1:
            (start, text, end), (sent_start, sent_text, sent_end) = split_at_text(frame, key), split_at_text(sent, key)
            if text == sent_text and b"\\" not in text:
                return FrameTemplate(start, end, sent_start, sent_end)
    return None


def template_with_ends(frame: bytes, key: bytes, sent_start: bytes, sent_end: bytes) -> FrameTemplate | None:
    """From a canonical frame with its text after `key`, for a client that reads the escaped text, without quotes,
    between `sent_start` and `sent_end`. None where the text cannot be located with certainty.
    """
    if frame.count(key) != 1:
        return None
    start, text, end = split_at_text(frame, key)
    return None if b"\\" in text else FrameTemplate(start, end, sent_start, sent_end)


def split_at_text(frame: bytes, key: bytes) -> tuple[bytes, bytes, bytes]:
    """The bytes before the text of that key, the text without its quotes, and the bytes after it."""
    start = frame.index(key) + len(key)
    end = frame.index(b'"', start)
    return frame[:start], frame[start:end], frame[end:]
