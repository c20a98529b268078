"""How a stream of bytes becomes the frames for the client."""

import pytest

from berth.canonical import Failure, FailureKind, Transcript
from berth.dialects.base import StreamDecoder
from tests.fakes.upstream import chat_frame


class Decoder(StreamDecoder):
    """Passes frames on; drops those with "drop", fails at those with "fail"."""

    def frame(self, frame: bytes) -> bytes | Failure:
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
def test_frames_that_came_together_go_out_together(chunk: bytes, out: bytes) -> None:
    assert Decoder().feed(chunk) == out


def test_frames_are_put_together_from_pieces_and_counted() -> None:
    decoder = Decoder()

    out = b"".join(decoder.feed(bytes([byte])) for byte in A + B)

    assert out == A + B
    assert (decoder.frames, decoder.failure) == (2, None)


def test_what_comes_before_a_failure_goes_out_and_what_follows_does_not() -> None:
    decoder = Decoder()

    assert decoder.feed(A + FAIL + B) == A
    assert (decoder.failure, decoder.frames) == (FAILURE, 1)
