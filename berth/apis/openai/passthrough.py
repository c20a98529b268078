"""OpenAI's error envelope, and the base of endpoints whose responses are canonical or nearly so."""

from typing import Any

from berth import json_text
from berth.apis.base import SSE, StreamEncoder
from berth.canonical import InferenceRequest
from berth.errors import ApiError
from berth.sse import comment, frame


def envelope(error: ApiError) -> dict[str, Any]:
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": {**fields, **error.extension}}


def error_body(error: ApiError) -> bytes:
    return json_text.dumps(envelope(error))


class OpenaiStream:
    """Forwards canonical frames. One stateless instance serves all streams."""

    plain = True

    def feed(self, frames: bytes) -> bytes:
        return frames

    def fail(self, error: ApiError) -> bytes:
        """The official clients raise on it. `[DONE]` must not follow: some would take the response for complete."""
        return frame(error_body(error))

    def heartbeat(self, text: str) -> bytes:
        return comment(text)


_STREAM = OpenaiStream()


class OpenaiEndpoint:
    """Forwards responses and streams as they are. Subclasses parse requests."""

    stream_type = SSE
    native = False
    request_id_header = b"x-request-id"

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        return body

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        return _STREAM

    def status(self, error: ApiError) -> int:
        return error.status

    def error(self, error: ApiError) -> bytes:
        return error_body(error)
