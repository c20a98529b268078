"""A decoder whose bytes are kept does what it does without that."""

import pytest

from berth.canonical import Failure, Transcript
from berth.dialects.base import StreamDecoder
from berth.dialects.failures import engine_failure
from berth.router.exchange.recording import Tape
from berth.router.forwarding.recording_decoder import MirroredDecoder, RecordingDecoder


class Upper(StreamDecoder):
    """Keeps what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []

    def limit_frames(self, longest_frame_bytes: int) -> None:
        self.asked.append(longest_frame_bytes)

    def frame(self, frame: bytes) -> bytes | Failure:
        return frame.upper()

    def keep(self) -> None:
        self.asked.append("keep")

    def transcript(self) -> Transcript:
        return Transcript(id="1", created=1, text="one", tokens=1)

    def end(self) -> Failure | None:
        return engine_failure("it is not over")


@pytest.mark.parametrize(
    ("recording", "kept"), [(RecordingDecoder, b"data: one\n\n"), (MirroredDecoder, b"DATA: ONE\n\n")]
)
def test_keeps_the_bytes_of_its_side_and_passes_on_the_rest(recording: type[RecordingDecoder], kept: bytes) -> None:
    inner, tape = Upper(), Tape(lambda wanted: wanted)
    decoder = recording(inner, tape)
    decoder.limit_frames(1000)
    decoder.keep()
    assert decoder.frame(b"x") == b"X"
    assert decoder.feed(b"data: one\n\n") == b"DATA: ONE\n\n"
    assert bytes(tape.kept) == kept
    assert (inner.asked, decoder.frames) == ([1000, "keep"], 1)
    assert decoder.transcript() == inner.transcript()
    assert decoder.end() == inner.end()
