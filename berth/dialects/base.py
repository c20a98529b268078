"""The router's interface to an engine's API: `Dialect` spells requests, `StreamDecoder` reads streams."""

from typing import Protocol

from berth.canonical import EngineResponse, Failure, InferenceRequest, Transcript, UpstreamRequest, Usage
from berth.plan import DialectName


class UnsupportedError(Exception):
    """This engine does not support the request; another may. `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class StreamDecoder(Protocol):
    """Reads one streamed response, frame by frame, and detects where it fails."""

    usage: Usage  # as reported by the engine so far

    def quick(self, chunk: bytes) -> bytes | None:
        """What `frame` would return, for bytes that are exactly one frame, and one that differs from an earlier frame
        only in its text; None for all others.
        """
        ...

    def keep(self) -> None:
        """Start recording the text for `transcript`."""
        ...

    def transcript(self) -> Transcript:
        """What the client has after all frames so far. Empty without `keep`."""
        ...

    def frame(self, frame: bytes) -> bytes | Failure:
        """What the client gets for one complete SSE frame: the same bytes where nothing needs a change, b"" where it
        gets nothing. A Failure for an error inside the stream: no further frame may follow it.
        """
        ...

    def end(self) -> Failure | None:
        """To be called when the engine's stream has ended: a Failure unless it was complete (a finish_reason for every
        choice, or [DONE]).
        """
        ...


class Dialect(Protocol):
    """How one kind of engine spells OpenAI's API."""

    name: DialectName

    def request(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        """The engine's spelling of the request. UnsupportedError where the engine does not support it."""
        ...

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        """Reads a non-streaming response, or the error response to a streamed request. `model` is the public name."""
        ...

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        """A decoder for the frames of a 200 response to a streamed request."""
        ...
