"""What a client API is to Berth."""

from typing import Protocol

from berth.canonical import InferenceRequest, Operation
from berth.errors import ApiError


class ApiFormat(Protocol):
    """One client API: how its requests are read and how its errors look. No I/O."""

    operation: Operation

    def parse(self, body: bytes) -> InferenceRequest:
        """InvalidRequestError (with `param`) for bytes that are not a request of this API."""
        ...

    def error(self, error: ApiError) -> bytes:
        """The body of an error answer."""
        ...

    def error_frame(self, error: ApiError) -> bytes:
        """The frame that ends a stream which cannot go on."""
        ...

    def heartbeat(self, text: str) -> bytes:
        """What tells a client that its stream is still waited for; b"" where the format has nothing that clients pass
        over.
        """
        ...
