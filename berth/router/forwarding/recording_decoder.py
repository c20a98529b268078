"""The decoders of a stream that is being captured, or whose answer is compared with another engine's."""

from berth.canonical import Failure, Transcript
from berth.dialects.base import StreamDecoder
from berth.router.exchange.mirrored import Mirrored
from berth.router.exchange.recording import Tape


class RecordingDecoder(StreamDecoder):
    """Another decoder, whose bytes are kept as the engine sent them."""

    def __init__(self, decoder: StreamDecoder, tape: Tape | Mirrored) -> None:
        super().__init__()
        self._decoder = decoder
        self._tape = tape

    def limit_frames(self, longest_frame_bytes: int) -> None:
        self._decoder.limit_frames(longest_frame_bytes)

    def feed(self, chunk: bytes) -> bytes:
        self._tape.add(chunk)
        decoder = self._decoder
        decoded = decoder.feed(chunk)
        self.usage, self.frames, self.mute, self.failure = decoder.usage, decoder.frames, decoder.mute, decoder.failure
        return decoded

    def frame(self, frame: bytes) -> bytes | Failure:
        return self._decoder.frame(frame)

    def keep(self) -> None:
        self._decoder.keep()

    def transcript(self) -> Transcript:
        return self._decoder.transcript()

    def end(self) -> Failure | None:
        return self._decoder.end()


class MirroredDecoder(RecordingDecoder):
    """Another decoder, whose frames are kept as the client got them."""

    def feed(self, chunk: bytes) -> bytes:
        decoder = self._decoder
        decoded = decoder.feed(chunk)
        self._tape.add(decoded)
        self.usage, self.frames, self.mute, self.failure = decoder.usage, decoder.frames, decoder.mute, decoder.failure
        return decoded
