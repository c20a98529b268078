"""What a client API is to Berth: how its requests are read, and how answers, streams and errors are written for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from berth.canonical import InferenceRequest, Operation
from berth.errors import ApiError

SSE = b"text/event-stream; charset=utf-8"
NDJSON = b"application/x-ndjson"
Headers = Mapping[bytes, bytes]  # names in lower case
NO_HEADERS: Headers = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Immediate:
    """A request that no engine is needed for, of a model that must exist all the same."""

    model: str  # as the client wrote it
    body: bytes  # of the answer
    content_type: bytes = b"application/json"


class StreamEncoder(Protocol):
    """Writes one streamed answer for its client, from canonical frames: OpenAI's SSE frames as a dialect's decoder
    leaves them. One choice for APIs that know no more. Stateful: the same encoder goes on when another engine does.
    """

    plain: bool  # True: canonical frames are the client's already, and `feed` need not be called

    def feed(self, frames: bytes) -> bytes:
        """What the client gets for any number of whole canonical frames: comments, chunks, usage, [DONE]. Only [DONE]
        ends the client's stream; what was held back (a finish_reason that waits for usage) must be out by then.
        """
        ...

    def fail(self, error: ApiError) -> bytes:
        """What ends a stream that cannot go on. Nothing may be fed after it."""
        ...

    def heartbeat(self, text: str) -> bytes:
        """What tells a client that its stream is still waited for; b"" where the API has nothing that clients pass
        over. Called between any two frames, and before the first.
        """
        ...


class ApiFormat(Protocol):
    """One endpoint of a client API. No I/O."""

    operation: Operation
    stream_type: bytes  # content-type of its streams
    native: bool  # it is the engines' own: answers pass as a dialect leaves them, and are not written anew
    request_id_header: bytes  # where its clients look for the id of a request, e.g. b"x-request-id"

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest | Immediate:
        """InvalidRequestError (with `param`) for bytes that are not a request of this API."""
        ...

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:
        """The whole answer for the client; `body` is the canonical one (OpenAI's JSON, normalised)."""
        ...

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        """The encoder of one streamed answer."""
        ...

    def status(self, error: ApiError) -> int:
        """The HTTP status of an error answer: some APIs have numbers of their own."""
        ...

    def error(self, error: ApiError) -> bytes:
        """The body of an error answer."""
        ...
