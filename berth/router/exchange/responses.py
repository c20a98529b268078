"""Complete responses to clients, written straight to ASGI."""

import math
from collections.abc import Awaitable, Mapping
from typing import Any

from msgspec import Struct, field
from starlette.types import Message, Send

from berth import json_text
from berth.apis.base import ApiFormat
from berth.errors import ApiError, RateLimitError

Headers = list[tuple[bytes, bytes]]
JSON = b"application/json"
CLOSE = (b"connection", b"close")  # the client has to open another connection for its next request


class Reply(Struct, frozen=True, kw_only=True):
    status: int = 200
    body: bytes
    content_type: bytes = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(document: Any, *, status: int = 200) -> Reply:
    return Reply(status=status, body=json_text.dumps(document))


def error_reply(api: ApiFormat, error: ApiError) -> Reply:
    """The error in the API's format, with the headers that the official SDKs follow for their retries."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        if isinstance(error, RateLimitError):
            headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    if error.should_retry is not None:
        headers["x-should-retry"] = "true" if error.should_retry else "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Reply(status=api.status(error), body=api.error(error), headers=headers)


async def write(send: Send, reply: Reply, extra: Headers, *, head_only: bool = False) -> None:
    """`head_only`: the response to HEAD, which has the length of the body but not the body."""
    headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), *extra]
    headers += [(name.encode(), value.encode()) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head_only else reply.body})


def with_headers(send: Send, headers: Headers) -> Send:
    """`send`, whose responses have these headers too."""

    def sent(message: Message) -> Awaitable[None]:  # not async: InflightRequest.push needs the type of the result
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        return send(message)

    return sent
