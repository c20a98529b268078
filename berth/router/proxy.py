"""One request's way: engine after engine until one answers, then its answer to the client.

Until the first bytes for the client there is another engine to ask. After them there is none: a stream that breaks ends
with the error frame of the client's API, because clients take a stream that just stops for a complete answer.
"""

import os
import time
from contextlib import suppress

from starlette.types import Receive

from berth.canonical import Failure
from berth.engines import guards
from berth.engines.base import UnsupportedError
from berth.errors import ApiError, InvalidRequestError, NotReadyError
from berth.log import log
from berth.plan import Limits, Task
from berth.router import routing
from berth.router.call import Call
from berth.router.flights import StopReason
from berth.router.http_client import AnswerTimeoutError, ConnectFailedError, Connection, UpstreamFailureError
from berth.router.metrics import CLIENT_GONE, Meter
from berth.router.relay import Relay
from berth.router.routing import Attempt, Outcome
from berth.router.upstreams import Upstream, Upstreams
from berth.sse import DONE

_END_S = 0.05  # from an engine's [DONE] to the end of its answer; usually they come together
_SLOWEST_TOKENS_PER_S = 1.0  # a whole answer may take this long per token; slower ones have to be streamed
_TOKENS_UNBOUNDED = 32_768  # of an answer, where neither the request nor the model says how long it may get


class _AttemptFailedError(Exception):
    """Nothing has reached the client: another replica may be asked."""

    def __init__(self, outcome: Outcome, failure: Failure) -> None:
        super().__init__(failure.message)
        self.outcome = outcome
        self.failure = failure


class Proxy:
    def __init__(self, upstreams: Upstreams, limits: Limits, meter: Meter) -> None:
        self._upstreams = upstreams
        self._limits = limits
        self._meter = meter

    async def serve(self, call: Call, receive: Receive) -> None:
        """Answers the request in any case; ends early when the client leaves."""
        model = call.route.name
        self._meter.in_flight(model, 1)
        try:
            await call.flight.guard(receive, self._answer(call))
            if call.flight.stopped is not None:
                await self._stopped(call, call.flight.stopped)
        finally:
            self._meter.in_flight(model, -1)
            self._meter.request(model, call.request.operation, call.status)
            self._meter.duration(model, time.monotonic() - call.since)

    async def _answer(self, call: Call) -> None:
        try:
            await self._ask(call)
        except ApiError as error:
            if call.attempts:
                _log_refused(call, error)
            await call.fail(error)
        except Exception:  # noqa: BLE001 - the boundary of a request: logged, and the client is told
            log.exception("the router failed", request=call.request_id, model=call.route.name)
            await call.fail(ApiError(f"Berth failed on request {call.request_id!r}: its log says more."))

    async def _stopped(self, call: Call, reason: StopReason) -> None:
        if reason is StopReason.DRAIN:
            await call.fail(NotReadyError("Berth is being stopped.", retry_after_s=5))
            return
        call.status = CLIENT_GONE
        if reason is StopReason.STALLED:  # the unfinished answer closes the connection
            log.warning("the client takes nothing any more", request=call.request_id, model=call.route.name)

    async def _ask(self, call: Call) -> None:
        """One candidate after another. ApiError when none of them answered."""
        upstreams = self._upstreams.candidates(call.route)
        for upstream, following in zip(upstreams, [*upstreams[1:], None], strict=True):
            failure = await self._attempt(call, upstream)
            if failure is None:
                return
            if failure.final:
                raise routing.refusal(failure)
            if following is not None:
                self._meter.fallback(upstream.replica)
                _log_fallback(call, following)
        raise routing.verdict(call.route, call.failures)

    async def _attempt(self, call: Call, upstream: Upstream) -> Failure | None:
        """None: the client has its answer, or as much of it as there will be."""
        call.attempts += 1
        call.replica = upstream.replica
        outcome = Outcome.STOPPED
        self._meter.on_replica(upstream.replica, 1)
        try:
            outcome = await self._exchange(call, upstream)
        except _AttemptFailedError as exc:
            outcome = exc.outcome
            call.failures.append(_attempt_of(upstream, outcome, exc.failure))
            return exc.failure
        finally:
            self._meter.on_replica(upstream.replica, -1)
            self._meter.attempt(upstream.replica, outcome)
        return None

    async def _exchange(self, call: Call, upstream: Upstream) -> Outcome:
        begun = time.monotonic()
        connection = await self._send(call, upstream)
        try:
            if call.request.stream and _is_stream(connection):
                return await self._stream(call, upstream, connection, begun)
            return await self._whole(call, upstream, connection)
        finally:
            upstream.pool.release(connection)

    async def _send(self, call: Call, upstream: Upstream) -> Connection:
        """The connection on which the head of the engine's answer has come."""
        replica = upstream.replica
        try:
            guards.check(
                call.request, vocab_size=replica.vocab_size, task=call.route.task, dialect=upstream.dialect.name
            )
            request = upstream.dialect.request(call.request, replica.served_name)
        except UnsupportedError as exc:
            raise _AttemptFailedError(Outcome.UNSUPPORTED, routing.unsupported(exc.message, exc.param)) from exc
        except InvalidRequestError as exc:
            raise _AttemptFailedError(Outcome.CLIENT, routing.client_failure(exc)) from exc
        # its own for each attempt: an engine takes a second request of the same id for the first one
        headers = {"x-request-id": f"{call.request_id}-{os.urandom(4).hex()}"}
        limit_s = self._limit_s(call)
        try:
            return await upstream.pool.request(request.path, request.body, headers, limit_s)
        except UpstreamFailureError as exc:
            if isinstance(exc, ConnectFailedError):
                self._upstreams.mark_down(replica.name)
            raise _failed(exc, limit_s) from exc

    async def _whole(self, call: Call, upstream: Upstream, connection: Connection) -> Outcome:
        limit_s = self._limit_s(call)
        try:
            body = await connection.read_all(limit_s)
        except UpstreamFailureError as exc:
            raise _failed(exc, limit_s) from exc
        answer = upstream.dialect.answer(call.request, call.route.name, connection.status, body)
        if isinstance(answer, Failure):
            raise _AttemptFailedError(routing.outcome_of(answer), answer)
        if call.request.stream:
            failure = routing.engine_failure("the engine gave a whole answer where a stream was asked for")
            raise _AttemptFailedError(Outcome.ENGINE, failure)
        self._meter.tokens(call.route.name, answer.usage)
        await call.reply(answer.body)
        return Outcome.OK

    async def _stream(self, call: Call, upstream: Upstream, connection: Connection, begun: float) -> Outcome:
        relay = Relay(upstream.dialect.stream(call.request, call.route.name))
        frames = await self._open(connection, relay, begun)
        self._meter.first_token(call.route.name, time.monotonic() - call.since)
        await call.start()
        try:
            failure, last = await self._pump(call, connection, relay, frames)
        finally:
            self._meter.frames(upstream.replica, relay.frames)
            self._meter.tokens(call.route.name, relay.usage)
        if failure is None:
            await call.end(last)
            return Outcome.OK
        await self._break(call, _attempt_of(upstream, Outcome.CUT, failure))
        return Outcome.CUT

    async def _open(self, connection: Connection, relay: Relay, begun: float) -> bytes:
        """The first frames, up to one that says something. Until then a failure is one of the attempt."""
        limit_s = self._limits.first_token_timeout_s
        frames = b""
        while not relay.opened:
            try:
                chunk = await connection.read(begun + limit_s - time.monotonic())
            except UpstreamFailureError as exc:
                raise _failed(exc, limit_s) from exc
            frames += relay.feed(chunk)
            failure = relay.failure
            if not chunk:
                failure = relay.end() or routing.engine_failure("the engine's stream was empty")
            if failure is not None:
                raise _AttemptFailedError(routing.outcome_of(failure), failure)
        return frames

    async def _pump(
        self, call: Call, connection: Connection, relay: Relay, frames: bytes
    ) -> tuple[Failure | None, bytes]:
        """The rest of the stream; what came together goes out together. Returns a Failure where it did not end well,
        and the last frames, which go out with the end of an answer that did.
        """
        timeout_s = self._limits.token_timeout_s
        try:
            while not frames.endswith(DONE):
                if frames:
                    await call.more(frames)
                if relay.failure is not None:
                    return relay.failure, b""
                chunk = await connection.read(timeout_s)
                if not chunk:
                    return relay.end(), DONE  # some engines leave it out, some clients wait for it
                frames = relay.feed(chunk)
        except UpstreamFailureError as exc:  # a cut after the last frame took nothing from the client
            return relay.end() and _failed(exc, timeout_s).failure, DONE
        with suppress(UpstreamFailureError):  # the connection can only be used again when the answer's end was read
            await connection.read(_END_S)
        return None, frames

    async def _break(self, call: Call, attempt: Attempt) -> None:
        """Ends a stream that had begun. This is the place where another replica would take over."""
        self._meter.broken_stream(call.route.name)
        log.warning(
            "stream broken",
            request=call.request_id,
            model=call.route.name,
            replica=attempt.replica,
            reason=attempt.failure.message,
        )
        await call.fail(routing.broken_stream(attempt))

    def _limit_s(self, call: Call) -> float:
        """How long the engine may take: for its first token, or for the whole answer when it is not streamed."""
        first_s = self._limits.first_token_timeout_s
        if call.request.stream or call.route.task is Task.EMBED:
            return first_s
        body = call.request.body
        tokens = body.get("max_completion_tokens") or body.get("max_tokens") or call.route.context or _TOKENS_UNBOUNDED
        return first_s + tokens / _SLOWEST_TOKENS_PER_S


def _is_stream(connection: Connection) -> bool:
    return connection.status == 200 and connection.headers.get(b"content-type", b"").startswith(b"text/event-stream")


def _failed(exc: UpstreamFailureError, limit_s: float) -> _AttemptFailedError:
    if isinstance(exc, AnswerTimeoutError):
        failure = routing.engine_failure(f"the engine said nothing for {limit_s:g} s")
        return _AttemptFailedError(Outcome.TIMEOUT, failure)
    outcome = Outcome.CONNECT if isinstance(exc, ConnectFailedError) else Outcome.BROKEN
    return _AttemptFailedError(outcome, routing.engine_failure(str(exc)))


def _attempt_of(upstream: Upstream, outcome: Outcome, failure: Failure) -> Attempt:
    return Attempt(replica=upstream.replica.name, engine=upstream.replica.engine, outcome=outcome, failure=failure)


def _log_fallback(call: Call, following: Upstream) -> None:
    attempt = call.failures[-1]
    log.warning(
        "fallback",
        request=call.request_id,
        model=call.route.name,
        **{"from": attempt.replica, "to": following.replica.name},
        outcome=attempt.outcome.value,
        reason=attempt.failure.message,
    )


def _log_refused(call: Call, error: ApiError) -> None:
    write = log.info if error.status < 500 else log.warning
    write(
        "request failed",
        request=call.request_id,
        model=call.route.name,
        status=error.status,
        attempts=call.attempts,
        reason=error.message,
    )
