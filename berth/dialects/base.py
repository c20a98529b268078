"""What an engine's API is to the router.

`Dialect` turns canonical requests into its spelling, `StreamDecoder` reads its streams.
"""

from typing import Protocol

from berth.canonical import EngineResponse, Failure, InferenceRequest, Transcript, UpstreamRequest, Usage
from berth.plan import DialectName


class UnsupportedError(Exception):
    """This engine cannot do what the request asks; another may. `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class StreamDecoder(Protocol):
    """Follows one streamed answer, frame by frame, and says when it is not one."""

    usage: Usage  # what the engine told so far

    def quick(self, chunk: bytes) -> bytes | None:
        """What `frame` would give, for bytes that are exactly one frame, and one that differs from an earlier one in
        its text alone; None for all others.
        """
        ...

    def keep(self) -> None:
        """From now on the text is kept, for `transcript`."""
        ...

    def transcript(self) -> Transcript:
        """What the client has after all frames so far. Only of use after `keep`."""
        ...

    def frame(self, frame: bytes) -> bytes | Failure:
        """What the client gets for one complete SSE frame: the same bytes where nothing needs changing, b"" where
        it gets nothing. A Failure for an error inside the stream; nothing may be fed after it.
        """
        ...

    def end(self) -> Failure | None:
        """Call when the engine's stream is over: a Failure unless it ended as it should (finish_reason for every
        choice, or [DONE]).
        """
        ...


class Dialect(Protocol):
    """How one kind of engine spells OpenAI's API."""

    name: DialectName

    def request(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        """The engine's spelling of the request. UnsupportedError where it has none."""
        ...

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        """Reads a whole answer, and an error answer to a streamed request too. `model` is the name to show."""
        ...

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        """A decoder for the frames of a 200 answer to a streamed request."""
        ...
