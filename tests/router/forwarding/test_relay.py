import pytest

from berth.canonical import Failure, FailureKind, Transcript, Usage
from berth.router.forwarding.stream import UpstreamStream, is_opening
from tests.fakes.upstream import chat_frame, sse


class Decoder:
    """Passes frames on; drops those with "drop", fails at those with "fail"."""

    usage = Usage(completion_tokens=7)

    def frame(self, frame: bytes) -> bytes | Failure:
        if b"fail" in frame:
            return FAILURE
        return b"" if b"drop" in frame else frame

    def end(self) -> Failure | None:
        return None

    def quick(self, chunk: bytes) -> bytes | None:  # noqa: ARG002 - the interface asks
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
    assert UpstreamStream(Decoder()).feed(chunk) == out


def test_frames_are_put_together_from_pieces_and_counted() -> None:
    relay = UpstreamStream(Decoder())

    out = b"".join(relay.feed(bytes([byte])) for byte in A + B)

    assert out == A + B
    assert (relay.frames, relay.usage, relay.end()) == (2, Usage(completion_tokens=7), None)


def test_what_comes_before_a_failure_goes_out_and_what_follows_does_not() -> None:
    relay = UpstreamStream(Decoder())

    assert relay.feed(A + FAIL + B) == A
    assert (relay.failure, relay.end()) == (FAILURE, FAILURE)


def test_a_stream_is_open_once_something_was_said() -> None:
    relay = UpstreamStream(Decoder())

    relay.feed(chat_frame(role=True))
    before = relay.opened
    relay.feed(A)

    assert (before, relay.opened) == (False, True)


def choice(**fields: object) -> dict[str, object]:
    return {"choices": [fields]}


@pytest.mark.parametrize(
    ("frame", "opening"),
    [
        (chat_frame(role=True), True),
        (chat_frame(""), True),
        (b": heartbeat\n\n", True),
        (sse(choice(delta={"role": "assistant", "content": None, "tool_calls": []})), True),
        (sse(choice(index=0, text="", finish_reason=None)), True),
        (sse({"choices": [], "usage": {}}), True),
        (chat_frame("a"), False),
        (chat_frame(finish="stop"), False),
        (sse(choice(delta={"reasoning": "hm"})), False),
        (sse(choice(delta={"tool_calls": [{"index": 0}]})), False),
        (sse(choice(text="a")), False),
        (sse({"choices": ["odd"]}), False),
        (sse({"choices": "odd"}), False),
        (sse(["odd"]), False),
        (b"data: [DONE]\n\n", False),
    ],
)
def test_openings_are_frames_that_show_nothing(frame: bytes, opening: bool) -> None:
    assert is_opening(frame) is opening
