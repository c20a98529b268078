"""One engine's stream on its way to the client: frames in, frames out, and when the first of them may go.

An engine that fails at once often says so inside a stream that it has begun already, after the chunk that only names
the role. As long as nothing but such openings came, they are held back, and another engine can still be asked.
"""

from typing import Any

import orjson

from berth.canonical import Failure, Transcript, Usage
from berth.engines.base import StreamDecoder
from berth.sse import FrameSplitter, data_of


class Relay:
    """Follows a stream. `feed` gives what the client gets; a failure inside the stream is in `failure` then."""

    __slots__ = ("_decode", "_decoder", "_quick", "_splitter", "failure", "frames", "opened")

    def __init__(self, decoder: StreamDecoder) -> None:
        self._decoder = decoder
        self._decode = decoder.frame
        self._quick = decoder.quick
        self._splitter = FrameSplitter()
        self.frames = 0  # that the client gets
        self.opened = False  # True: something that a client would show came
        self.failure: Failure | None = None

    @property
    def usage(self) -> Usage:
        return self._decoder.usage

    def keep(self) -> None:
        """From now on `transcript` can tell what the client has."""
        self._decoder.keep()

    def transcript(self) -> Transcript:
        return self._decoder.transcript()

    @property
    def failed(self) -> bool:
        return self.failure is not None

    def feed(self, chunk: bytes) -> bytes:
        """The frames for the client in these bytes of the engine, as one piece. Nothing may be fed after a failure."""
        if not self._splitter.pending and (shown := self._quick(chunk)) is not None:
            self.frames += 1
            return shown
        frames = []
        for frame in self._splitter.feed(chunk):
            decoded = self._decode(frame)
            if isinstance(decoded, Failure):
                self.failure = decoded
                break
            if decoded:
                frames.append(decoded)
                if not self.opened:
                    self.opened = not is_opening(decoded)
        self.frames += len(frames)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def end(self) -> Failure | None:
        """The engine's stream is over, one way or another: a Failure unless it had come to its proper end."""
        return self.failure or self._decoder.end()


def is_opening(frame: bytes) -> bool:
    """True for a frame after which a client still has nothing to show: a comment, a role, an empty text."""
    data = data_of(frame)
    if data is None:
        return True
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:  # [DONE], or what only the client can judge
        return False
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    return isinstance(choices, list) and not any(_says_something(choice) for choice in choices)


def _says_something(choice: Any) -> bool:
    if not isinstance(choice, dict) or choice.get("finish_reason") or choice.get("text"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
