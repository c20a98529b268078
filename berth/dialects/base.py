"""The router's interface to an engine's API: `Dialect` spells requests, `StreamDecoder` reads streams."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, Protocol

from berth.canonical import (
    EngineResponse,
    Failure,
    FailureKind,
    InferenceRequest,
    Json,
    Transcript,
    UpstreamRequest,
    Usage,
)
from berth.dialects.failures import engine_failure
from berth.errors import LONGEST_MESSAGE, shortened
from berth.plan import DialectName, Task
from berth.sse import FrameSplitter
from berth.state import EngineLoad

LONGEST_FRAME_BYTES: Final = 8 << 20  # the text of 131,072 tokens in one frame takes 1 MiB


class UnsupportedError(Exception):
    """This engine does not support the request; another may. `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = shortened(message, LONGEST_MESSAGE)  # it may quote the request
        self.param = param


class StreamDecoder(ABC):
    """Reads one streamed response and detects where it fails."""

    __slots__ = ("_longest_frame_bytes", "_splitter", "failure", "frames", "mute", "usage")

    def __init__(self) -> None:
        self._splitter = FrameSplitter()
        self._longest_frame_bytes = LONGEST_FRAME_BYTES
        self.usage = Usage()  # as reported by the engine so far
        self.frames = 0  # that the client gets
        self.mute = 0  # those of them that say nothing: comments, and chunks without text, call or end
        self.failure: Failure | None = None  # an error inside the stream

    def limit_frames(self, longest_frame_bytes: int) -> None:
        """A longer frame is a failure of the engine."""
        self._longest_frame_bytes = longest_frame_bytes

    def feed(self, chunk: bytes) -> bytes:
        """The client's frames in these bytes of the engine, as one piece. Nothing may be fed after a failure."""
        decoded = []
        for frame in self._splitter.feed(chunk):
            try:
                found = self.frame(frame)
            except Exception as exc:  # noqa: BLE001 - what engines send is beyond any list of exceptions
                found = engine_failure(f"unexpected frame from the engine: {exc!r}")
            if isinstance(found, Failure):
                self.failure = found
                break
            if found:
                decoded.append(found)
        if len(self._splitter.pending) > self._longest_frame_bytes and self.failure is None:
            limit_mib = self._longest_frame_bytes >> 20
            self.failure = engine_failure(f"the engine sent a frame of more than {limit_mib} MiB")
        self.frames += len(decoded)
        return decoded[0] if len(decoded) == 1 else b"".join(decoded)

    @abstractmethod
    def frame(self, frame: bytes) -> bytes | Failure:
        """What the client gets for one complete SSE frame: the same bytes where nothing needs a change, b"" where it
        gets nothing. A Failure for an error inside the stream; whatever this raises becomes one.
        """

    @abstractmethod
    def keep(self) -> None:
        """Start recording the text for `transcript`."""

    @abstractmethod
    def transcript(self) -> Transcript:
        """What the client has after all frames so far. Empty without `keep`."""

    @abstractmethod
    def end(self) -> Failure | None:
        """To be called when the engine's stream has ended: a Failure unless it was complete (a finish_reason for every
        choice, or [DONE]).
        """


class Dialect(Protocol):
    """How one kind of engine spells OpenAI's API."""

    name: DialectName

    @property
    def continues_chat(self) -> bool | None:
        """Whether it continues an answer that a request brings, exactly. None: it depends on the server."""
        ...

    @property
    def continues_completion(self) -> bool | None:
        """The same for completions, whose prompt is the text so far."""
        ...

    @property
    def fragile(self) -> bool:
        """A bad request may stop the server, for all: it is not sent to the next server of this kind."""
        ...

    @property
    def health_paths(self) -> tuple[str, ...]:
        """Where an attached server says that it is well: the first of these paths that it has."""
        ...

    @property
    def health_timeout_s(self) -> float:
        """For the response there."""
        ...

    @property
    def load_paths(self) -> tuple[str, ...]:
        """Where the engine says how busy it is; (): nowhere."""
        ...

    @property
    def load_timeout_s(self) -> float:
        """For each response there."""
        ...

    def load(self, pages: Mapping[str, bytes], before: EngineLoad | None) -> EngineLoad | None:
        """What the pages say, by path; those that it does not have are missing. `before`: what they said the last time
        since its start. None: nothing.
        """
        ...

    @property
    def stream_type(self) -> bytes:
        """How the content type of its streams begins."""
        ...

    def for_context(self, context: int | None) -> "Dialect":
        """The dialect for a model with so much context; None: unknown."""
        ...

    @property
    def needs_uuid(self) -> bool:
        """It may take nothing but a UUID as x-request-id."""
        ...

    def request(
        self,
        request: InferenceRequest,
        served_name: str,
        *,
        task: Task | None = None,
        vocab_size: int | None = None,
    ) -> UpstreamRequest:
        """The engine's spelling of the request. UnsupportedError where the engine does not support it,
        InvalidRequestError where no engine does. `task` of the model: with it the request is checked for what may crash
        an engine.
        """
        ...

    def judge(self, status: int, message: str, error: Json) -> FailureKind:
        """Whose fault an error response is. `message`: cleaned, "" if it has none. `error`: its JSON object."""
        ...

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        """Reads a non-streaming response, or the error response to a streamed request. `model` is the public name."""
        ...

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        """A decoder for the frames of a 200 response to a streamed request."""
        ...
