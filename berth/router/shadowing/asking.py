"""The request to the other replica, and its answer. Nothing of it counts as a client's request: it is in no journal, on
no bill, and its failure says nothing to the circuit breaker.
"""

import time
from collections.abc import Mapping
from typing import Final

from berth.canonical import Failure, InferenceRequest
from berth.dialects.base import UnsupportedError
from berth.errors import InvalidRequestError
from berth.ipc.shadow import Skip
from berth.plan import ModelRoute
from berth.router.balancing.upstreams import Upstream
from berth.router.exchange import outcomes
from berth.router.exchange.mirrored import MOST_BYTES
from berth.router.exchange.outcomes import Outcome
from berth.router.forwarding import response_limits
from berth.router.forwarding.stream import is_opening
from berth.router.shadowing import answers
from berth.router.shadowing.comparison import Side
from berth.router.upstream.connection import (
    ConnectFailedError,
    Connection,
    PreemptedError,
    ResponseTimeoutError,
    ResponseTooLongError,
    UpstreamFailureError,
)
from berth.sse import frames_of

LONGEST_S: Final = 600.0  # of any wait here: the caller has a shorter limit for the whole


class NotAnsweredError(Exception):
    """The replica failed."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class NotAskedError(Exception):
    """There is nothing to compare, and that is not the replica's fault."""

    def __init__(self, reason: Skip) -> None:
        super().__init__(reason)
        self.reason = reason


async def asked(upstream: Upstream, request: InferenceRequest, route: ModelRoute, headers: Mapping[str, str]) -> Side:
    """Its answer. NotAnsweredError where it fails, NotAskedError where it cannot be asked that."""
    replica, began = upstream.replica, time.monotonic()
    try:
        sent = upstream.dialect.request(request, replica.served_name, task=route.task, vocab_size=replica.vocab_size)
    except UnsupportedError as error:
        raise NotAskedError(Skip.UNSUPPORTED) from error
    except InvalidRequestError as error:
        raise NotAnsweredError(Outcome.CLIENT) from error
    try:
        connection = await upstream.pool.request(sent.path, sent.body, headers, LONGEST_S, sent.content_type)
        try:
            content_type = connection.headers.get(b"content-type", b"")
            streams = connection.status == 200 and content_type.startswith(upstream.dialect.stream_type)
            read = _stream if request.stream and streams else _whole
            return await read(connection, upstream, request, route, began)
        finally:
            upstream.pool.release(connection)
    except ResponseTooLongError as error:
        raise NotAskedError(Skip.TOO_LARGE) from error
    except PreemptedError as error:  # it makes room for another model
        raise NotAskedError(Skip.NOT_READY) from error
    except UpstreamFailureError as error:
        raise NotAnsweredError(outcome_of(error)) from error


def outcome_of(error: UpstreamFailureError) -> Outcome:
    if isinstance(error, ResponseTimeoutError):
        return Outcome.TIMEOUT
    return Outcome.CONNECT if isinstance(error, ConnectFailedError) else Outcome.BROKEN


async def _whole(
    connection: Connection, upstream: Upstream, request: InferenceRequest, route: ModelRoute, began: float
) -> Side:
    body = await connection.read_all(LONGEST_S, MOST_BYTES)
    response = upstream.dialect.answer(request, route.name, connection.status, body)
    if isinstance(response, Failure):
        raise _failed(response, connection)
    if request.stream:
        raise NotAnsweredError(Outcome.ENGINE)
    duration_s = time.monotonic() - began
    return Side(answer=answers.of_body(response.body), tokens=response.usage.completion_tokens, duration_s=duration_s)


async def _stream(
    connection: Connection, upstream: Upstream, request: InferenceRequest, route: ModelRoute, began: float
) -> Side:
    decoder = upstream.dialect.stream(request, route.name)
    decoder.limit_frames(response_limits.frame_bytes(request, connection.asked_bytes))
    connection.allow(2 * MOST_BYTES)
    frames, first_token_s = bytearray(), None
    while chunk := await connection.read(LONGEST_S):
        decoded = decoder.feed(chunk)
        frames += decoded
        if first_token_s is None and not all(is_opening(frame) for frame in frames_of(decoded)):
            first_token_s = time.monotonic() - began
        if decoder.failure is not None:
            raise _failed(decoder.failure, connection)
        if len(frames) > MOST_BYTES:
            raise NotAskedError(Skip.TOO_LARGE)
    if decoder.end() is not None:
        raise NotAnsweredError(Outcome.CUT)
    duration_s = time.monotonic() - began
    return Side(
        answer=answers.of_frames(bytes(frames)),
        tokens=decoder.usage.completion_tokens,
        first_token_s=first_token_s,
        duration_s=duration_s,
    )


def _failed(failure: Failure, connection: Connection) -> Exception:
    """Of an error response, or an error inside a stream."""
    retry_after_s = outcomes.retry_after_s(connection.headers.get(b"retry-after"))
    outcome = outcomes.outcome_of(failure, connection.status, retry_after_s)
    return NotAskedError(Skip.UNSUPPORTED) if outcome is Outcome.UNSUPPORTED else NotAnsweredError(outcome)
