"""OpenAI's error envelope, for every answer that is one: bodies and the last frame of a stream that cannot go on."""

from typing import Any

import orjson

from berth.errors import ApiError
from berth.sse import comment, frame


def envelope(error: ApiError) -> dict[str, Any]:
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": fields}


def error_body(error: ApiError) -> bytes:
    return orjson.dumps(envelope(error))


class OpenaiErrors:
    """How an OpenAI API tells errors, and that an answer takes its time."""

    def error(self, error: ApiError) -> bytes:
        return error_body(error)

    def error_frame(self, error: ApiError) -> bytes:
        """The official clients raise on it. `[DONE]` must not follow: some would take the answer for complete."""
        return frame(error_body(error))

    def heartbeat(self, text: str) -> bytes:
        return comment(text)
