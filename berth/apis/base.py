"""The interface of a client API: how requests are parsed, and how responses, streams and errors are encoded."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

from berth.canonical import InferenceRequest, Operation
from berth.errors import ApiError

SSE = b"text/event-stream; charset=utf-8"
NDJSON = b"application/x-ndjson"
Headers = Mapping[bytes, bytes]  # names in lower case
NO_HEADERS: Headers = MappingProxyType({})


class Immediate(Struct, frozen=True, kw_only=True):
    """The response to a request that needs no engine. The model must exist all the same."""

    model: str  # as the client wrote it
    body: bytes
    content_type: bytes = b"application/json"
    loads: bool = False  # the response comes once the model is loaded, where requests load it
    keep_alive_s: float | None = None  # how long it stays loaded without requests; None: as before, inf: for ever


class EncodingError(Exception):
    """What an engine sent has no form in the client's API: it is nested too deeply, or its numbers are too large.
    `sent`: the client's bytes for what came before it in the same piece.
    """

    def __init__(self, message: str, sent: bytes = b"") -> None:
        super().__init__(message)
        self.sent = sent


class StreamEncoder(Protocol):
    """Encodes one streamed response for its client, from canonical frames: OpenAI's SSE frames as a dialect's decoder
    returns them. APIs that support only one choice get one. Stateful: the same encoder is used when another engine
    continues the stream.
    """

    plain: bool  # True: canonical frames are the client's already, and `feed` need not be called

    def feed(self, frames: bytes) -> bytes:
        """The client's bytes for any number of complete canonical frames: comments, chunks, usage, [DONE]. Only [DONE]
        ends the client's stream. Whatever was held back (a finish_reason that waits for usage) is sent by then.
        EncodingError where the frames have no form in this API: the stream ends with `fail` then.
        """
        ...

    def fail(self, error: ApiError) -> bytes:
        """The end of a stream that cannot continue, at any time and after any error: it never raises, and is b"" only
        after the end. Nothing may be fed after it.
        """
        ...

    def heartbeat(self, text: str) -> bytes:
        """Bytes that show a waiting client that its request is alive; b"" where the API has nothing that clients
        ignore. Called between any two frames, and before the first.
        """
        ...


class ApiFormat(Protocol):
    """One endpoint of a client API. No I/O."""

    operation: Operation
    stream_type: bytes  # content-type of its streams
    native: bool  # True: the API is the engines' own, and responses are forwarded without translation
    request_id_header: bytes  # where clients look for the request id, e.g. b"x-request-id"

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest | Immediate:
        """InvalidRequestError (with `param`) for a body that is not a valid request of this API."""
        ...

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        """The non-streaming response for the client; `body` is the canonical one (normalised OpenAI JSON)."""
        ...

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        """The encoder of one streamed response."""
        ...

    def status(self, error: ApiError) -> int:
        """The HTTP status of an error response: some APIs use statuses of their own."""
        ...

    def error(self, error: ApiError) -> bytes:
        """The body of an error response."""
        ...
