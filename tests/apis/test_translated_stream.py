"""The common part of encoders, by an encoder that writes texts in brackets."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from berth.apis.translated_stream import TranslatedStream, escape_line_ends
from berth.canonical import Json
from berth.frame_template import template_with_ends
from berth.sse import DONE, comment, frame


class Brackets(TranslatedStream):
    def __init__(self) -> None:
        super().__init__()
        self.parsed = 0

    def feed(self, frames: bytes) -> bytes:
        template = self._template
        if template is not None and template.matches(frames):
            return template.render(frames)
        return self._feed_parsed(frames)

    def translate(self, chunk: Json, frame: bytes) -> bytes:
        self.parsed += 1
        self._template = template_with_ends(frame, b'"text":"', b"[", b"]")
        return b"[%b]" % chunk["text"].encode()

    def end(self) -> bytes:
        self._over = True
        self._template = None
        return b"."


def text(value: str) -> bytes:
    return frame(orjson.dumps({"text": value}))


def test_parses_only_frames_that_do_not_match_the_template() -> None:
    stream = Brackets()

    assert stream.feed(text("a")) + stream.feed(text("b")) + stream.feed(text("c")) == b"[a][b][c]"
    assert stream.parsed == 1


@given(st.lists(st.text("abc", min_size=1), max_size=5), st.lists(st.booleans(), min_size=7, max_size=7))
def test_frames_may_be_fed_in_groups_of_any_size(texts: list[str], splits: list[bool]) -> None:
    frames = [comment("x"), *map(text, texts), DONE]
    stream, sent, pending = Brackets(), b"", b""
    for one, split in zip(frames, splits, strict=False):
        pending += one
        if split:
            sent, pending = sent + stream.feed(pending), b""

    assert sent + stream.feed(pending) == "".join(f"[{value}]" for value in texts).encode() + b"."


def test_nothing_follows_the_end() -> None:
    stream = Brackets()

    assert stream.feed(text("a") + DONE + text("b")) == b"[a]."
    assert stream.feed(DONE) == b""


def test_escapes_characters_that_end_a_line() -> None:
    written = escape_line_ends('"a\x85b\u2028c\u2029"'.encode())

    assert written == b'"a\\u0085b\\u2028c\\u2029"'
    assert orjson.loads(written) == "a\x85b\u2028c\u2029"
