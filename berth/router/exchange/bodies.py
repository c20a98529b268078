"""The bodies of requests: within limits of size, time and memory.

A body has BERTH_CLIENT_STALL_TIMEOUT for each of its pieces, and as a whole the same and a second for every
LEAST_BYTES_PER_S of it: a client that sends a byte now and then would hold what it has sent for ever.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from berth.errors import InvalidRequestError, RequestTimeoutError, TooLargeError
from berth.plan import Limits
from berth.router.exchange.inflight import LEAST_BYTES_PER_S, InflightRequest
from berth.router.exchange.memory_budget import UNCOUNTED_BYTES, MemoryBudget

_MOST_DIGITS: Final = 18  # of a length


class ClientGoneError(Exception):
    """The client disconnected before its request was complete."""


async def read_body(
    headers: Mapping[bytes, bytes], request: InflightRequest, limits: Limits, memory: MemoryBudget
) -> bytes:
    """The complete body. TooLargeError as soon as it is over the limit, by its content-length or by the bytes so far.
    RequestTimeoutError when the request was stopped because the client sent nothing more, or too slowly.
    OverloadedError when there is no memory for it. What was taken of `memory` is given back at the end of the request.
    """
    limit = limits.max_body_bytes
    _check_announced(headers, limit)
    parts: list[bytes] = []
    size = 0  # of them
    request.receiving = True
    while True:
        try:
            message = await request.receive()
        except asyncio.CancelledError as exc:
            if request.stopped is None:
                raise
            request.resume()
            raise _too_slow(request, limits.client_stall_timeout_s) from exc
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        request.received_bytes += len(part)  # as received: a decoder of Content-Encoding belongs after this line
        size += len(part)
        if size > limit:
            raise TooLargeError(f"The body has more than {limit} bytes (BERTH_MAX_BODY).", should_retry=False)
        more = message.get("more_body")
        if more or len(part) > UNCOUNTED_BYTES:
            memory.take(len(part))
            request.held_bytes += len(part)
        if not more:
            request.receiving = False
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


def _check_announced(headers: Mapping[bytes, bytes], limit: int) -> None:
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit():
        raise InvalidRequestError(f"content-length must be a number, not {announced!r}.")
    if len(announced) > _MOST_DIGITS or int(announced) > limit:
        shown = announced[:_MOST_DIGITS].decode()
        raise TooLargeError(f"The body has {shown} bytes; BERTH_MAX_BODY allows {limit}.", should_retry=False)


def _too_slow(request: InflightRequest, stall_s: float) -> RequestTimeoutError:
    size = request.received_bytes
    since_s = request.loop.time() - request.since
    if since_s <= stall_s + size / LEAST_BYTES_PER_S:
        return RequestTimeoutError(f"The body is incomplete: no data for {stall_s:g} s after {size} bytes.")
    least = f"{stall_s:g} s and a second for every {LEAST_BYTES_PER_S >> 10} KiB"
    return RequestTimeoutError(f"The body is incomplete: only {size} bytes in {since_s:.0f} s. It has {least}.")
