"""How a stream of bytes becomes the frames for the client."""

import pytest

from berth.canonical import Failure, FailureKind, Transcript
from berth.dialects.base import StreamDecoder
from tests.fakes.upstream import chat_frame


class Decoder(StreamDecoder):
    """Passes frames on; drops those with "drop", fails at those with "fail", and raises at those with "raise"."""

    def frame(self, frame: bytes) -> bytes | Failure:
        if b"raise" in frame:
            raise ZeroDivisionError("odd")
        if b"fail" in frame:
            return FAILURE
        return b"" if b"drop" in frame else frame

    def end(self) -> Failure | None:
        return None

    def keep(self) -> None:
        raise AssertionError("nobody wants to know")

    def transcript(self) -> Transcript:
        raise AssertionError("nobody wants to know")


FAILURE = Failure(kind=FailureKind.ENGINE, status=502, message="boom")
A, B, DROP, FAIL = (chat_frame(text) for text in ("a", "b", "drop", "fail"))


@pytest.mark.parametrize(
    ("chunk", "out"),
    [(A, A), (A + B, A + B), (A + B[:9], A), (DROP, b""), (A + DROP + B, A + B), (b"", b"")],
)
def test_frames_fed_together_are_returned_together(chunk: bytes, out: bytes) -> None:
    assert Decoder().feed(chunk) == out


def test_assembles_and_counts_frames() -> None:
    decoder = Decoder()

    out = b"".join(decoder.feed(bytes([byte])) for byte in A + B)

    assert out == A + B
    assert (decoder.frames, decoder.failure) == (2, None)


def test_whatever_a_frame_raises_is_a_failure_of_the_engine() -> None:
    decoder = Decoder()

    assert decoder.feed(A + chat_frame("raise") + B) == A
    assert decoder.failure is not None
    assert (decoder.failure.kind, decoder.frames) == (FailureKind.ENGINE, 1)
    assert "ZeroDivisionError('odd')" in decoder.failure.message


def test_returns_frames_before_a_failure_only() -> None:
    decoder = Decoder()

    assert decoder.feed(A + FAIL + B) == A
    assert (decoder.failure, decoder.frames) == (FAILURE, 1)
