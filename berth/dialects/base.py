"""What an engine's API is to the router.

`Dialect` turns canonical requests into its spelling, `StreamDecoder` reads its streams.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from berth.canonical import EngineResponse, Failure, InferenceRequest, Transcript, UpstreamRequest, Usage
from berth.plan import DialectName, Task
from berth.sse import FrameSplitter


class UnsupportedError(Exception):
    """This engine cannot do what the request asks; another may. `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class StreamDecoder(ABC):
    """Follows one streamed response and reports when it is invalid."""

    __slots__ = ("_splitter", "failure", "frames", "usage")

    def __init__(self) -> None:
        self._splitter = FrameSplitter()
        self.usage = Usage()  # as the engine has reported it so far
        self.frames = 0  # that the client gets
        self.failure: Failure | None = None  # an error inside the stream

    def feed(self, chunk: bytes) -> bytes:
        """The client's frames in these bytes of the engine, as one piece. Nothing may be fed after a failure."""
        decoded = []
        for frame in self._splitter.feed(chunk):
            found = self.frame(frame)
            if isinstance(found, Failure):
                self.failure = found
                break
            if found:
                decoded.append(found)
        self.frames += len(decoded)
        return decoded[0] if len(decoded) == 1 else b"".join(decoded)

    @abstractmethod
    def frame(self, frame: bytes) -> bytes | Failure:
        """What the client gets for one complete SSE frame: the same bytes where nothing needs changing, b"" where
        it gets nothing. A Failure for an error inside the stream.
        """

    @abstractmethod
    def keep(self) -> None:
        """From now on the text is kept, for `transcript`."""

    @abstractmethod
    def transcript(self) -> Transcript:
        """What the client has after all frames so far. Only of use after `keep`."""

    @abstractmethod
    def end(self) -> Failure | None:
        """Call when the engine's stream is over: a Failure unless it ended as it should (finish_reason for every
        choice, or [DONE]).
        """


class Dialect(Protocol):
    """How one kind of engine spells OpenAI's API."""

    name: DialectName

    def request(
        self,
        request: InferenceRequest,
        served_name: str,
        *,
        task: Task | None = None,
        vocab_size: int | None = None,
    ) -> UpstreamRequest:
        """The engine's spelling of the request. UnsupportedError where it has none, InvalidRequestError where no
        engine has one. `task` of the model: with it the request is checked for what may kill an engine.
        """
        ...

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        """Reads a whole answer, and an error answer to a streamed request too. `model` is the name to show."""
        ...

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        """A decoder for the frames of a 200 answer to a streamed request."""
        ...
