"""What came of one attempt on one replica.

One attempt on one replica: what it is asked, and its answer on the way to the client.
"""

import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import orjson

from berth.canonical import EngineResponse, Failure, InferenceRequest, Operation, Transcript
from berth.dialects import request_checks
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.stream_decoder import expected_choices
from berth.errors import InvalidRequestError
from berth.plan import Limits
from berth.router.balancing.admission import Admission
from berth.router.balancing.hang_detector import HangDetector, HangsError
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange import outcomes
from berth.router.exchange.headers import RequestIds
from berth.router.exchange.outcomes import Attempt, Outcome
from berth.router.exchange.request import RequestContext
from berth.router.exchange.responses import JSON
from berth.router.forwarding import continuation, embedding_batches
from berth.router.forwarding.output_schema import OutputSchema, ValidatingDecoder, expectation
from berth.router.forwarding.stream import FlushRounds, StreamForwarder, UpstreamStream
from berth.router.telemetry.metrics import Meter
from berth.router.upstream.connection import AnswerTimeoutError, ConnectFailedError, Connection, UpstreamFailureError
from berth.sse import DONE

# What an outcome tells about the replica; of the others it tells nothing.
WELL = frozenset({Outcome.OK, Outcome.CLIENT, Outcome.UNSUPPORTED, Outcome.UNFIT})
ILL = frozenset({Outcome.CONNECT, Outcome.BROKEN, Outcome.TIMEOUT, Outcome.ENGINE, Outcome.CUT})


class AttemptFailedError(Exception):
    """Nothing of this attempt has reached the client: another replica may be asked."""

    def __init__(self, outcome: Outcome, failure: Failure, *, retry_after_s: float = 0.0, asked: bool = True) -> None:
        super().__init__(failure.message)
        self.outcome = outcome
        self.failure = failure
        self.retry_after_s = retry_after_s  # of an engine that is full; 0: it says nothing
        self.asked = asked  # False: it was known without the engine


@dataclass(slots=True, kw_only=True)
class Result:
    """How an attempt ended that has reached the client."""

    outcome: Outcome = Outcome.OK
    cut: Failure | None = None  # why the stream is not whole
    relay: UpstreamStream | None = None  # of such a stream: it knows what the client has


def failed(exc: UpstreamFailureError, limit_s: float) -> AttemptFailedError:
    """Of a connection that broke, or was silent for `limit_s`."""
    if isinstance(exc, HangsError):
        return AttemptFailedError(Outcome.TIMEOUT, outcomes.engine_failure(str(exc)))
    if isinstance(exc, AnswerTimeoutError):
        failure = outcomes.engine_failure(f"the engine said nothing for {limit_s:g} s")
        return AttemptFailedError(Outcome.TIMEOUT, failure)
    outcome = Outcome.CONNECT if isinstance(exc, ConnectFailedError) else Outcome.BROKEN
    return AttemptFailedError(outcome, outcomes.engine_failure(str(exc)))


def attempt_of(upstream: Upstream, outcome: Outcome, failure: Failure, retry_after_s: float = 0.0) -> Attempt:
    replica = upstream.replica
    return Attempt(
        replica=replica.name, engine=replica.engine, outcome=outcome, failure=failure, retry_after_s=retry_after_s
    )


T = TypeVar("T")

_COUNT_S = 2.0
_END_S = 0.05  # from an engine's [DONE] to the end of its answer; usually they come together
_SLOWEST_TOKENS_PER_S = 1.0  # a whole answer may take this long per token; slower ones have to be streamed
_TOKENS_UNBOUNDED = 32_768  # of an answer, where neither the request nor the model says how long it may get
_TEXTS = frozenset({Operation.CHAT, Operation.COMPLETION})
_UNFIT_CODE = outcomes.unfit("").code


class Attempts:
    """Makes them for one worker."""

    def __init__(
        self, upstreams: Upstreams, admission: Admission, limits: Limits, meter: Meter, request_ids: RequestIds
    ) -> None:
        self._upstreams = upstreams
        self._admission = admission
        self._limits = limits
        self._meter = meter
        self._request_ids = request_ids
        self._rounds = FlushRounds()
        self._liveness = HangDetector(upstreams, admission, limits)

    async def counted(self, upstream: Upstream, so_far: Transcript) -> Transcript:
        """The transcript with the tokens that this replica finds in its text: a busy engine puts several into one
        frame. As it was, where the replica does not tell.
        """
        wanted = {"model": upstream.replica.served_name, "prompt": so_far.text, "add_special_tokens": False}
        try:
            connection = await upstream.pool.request("/tokenize", orjson.dumps(wanted), {}, _COUNT_S)
            try:
                answer = await connection.read_all(_COUNT_S)
            finally:
                upstream.pool.release(connection)
            count = orjson.loads(answer)["count"]
        except (UpstreamFailureError, ValueError, KeyError, TypeError):
            return so_far
        return replace(so_far, tokens=max(so_far.tokens, count)) if isinstance(count, int) else so_far

    async def make(self, call: RequestContext, upstream: Upstream, request: InferenceRequest) -> Result:
        """One replica. AttemptFailedError when nothing of it has reached the client."""
        call.attempts += 1
        call.served_by = upstream.replica
        outcome = Outcome.STOPPED
        upstream.breaker.begin(time.monotonic())
        self._admission.taken(upstream)
        error: AttemptFailedError | None = None
        try:
            result = await self._exchange(call, upstream, request)
            outcome = result.outcome
        except AttemptFailedError as exc:
            error, outcome = exc, exc.outcome
            call.failures.append(attempt_of(upstream, outcome, exc.failure, exc.retry_after_s))
            raise
        finally:
            self._meter.attempt(upstream.replica, outcome)
            self._judge(upstream, outcome, error)
            self._admission.left(upstream)
        return result

    def _judge(self, upstream: Upstream, outcome: Outcome, error: AttemptFailedError | None) -> None:
        if error is not None and not error.asked:
            upstream.breaker.withdrawn()
        elif outcome in WELL:
            self._upstreams.succeeded(upstream)
        elif outcome in ILL:
            self._upstreams.failed(upstream, certain=outcome is Outcome.CONNECT)
        elif outcome is Outcome.OVERLOADED:
            self._upstreams.refused(upstream, error.retry_after_s if error is not None else 0.0)
        else:
            upstream.breaker.withdrawn()

    async def _exchange(self, call: RequestContext, upstream: Upstream, request: InferenceRequest) -> Result:
        if upstream.replica.batch is not None:
            asked = embedding_batches.parts(request, upstream.replica.batch)
            if len(asked) > 1:
                return await self._in_parts(call, upstream, asked)
        begun = time.monotonic()
        connection = await self._send(call, upstream, request)
        try:
            if request.stream and _is_stream(connection):
                return await self._stream(call, upstream, request, connection, begun)
            answer = await self._read(call, upstream, request, connection)
            passed = connection.headers.get(b"content-type", JSON) if request.media else JSON
            return await self._reply(call, answer, passed)
        finally:
            upstream.pool.release(connection)

    async def _in_parts(self, call: RequestContext, upstream: Upstream, asked: Sequence[InferenceRequest]) -> Result:
        """One after the other: together they are no more work than the one that the client sent."""
        answers = []
        for part in asked:
            connection = await self._send(call, upstream, part)
            try:
                answers.append(await self._read(call, upstream, part, connection))
            finally:
                upstream.pool.release(connection)
        try:
            whole = embedding_batches.joined(answers)
        except (KeyError, TypeError) as exc:
            failure = outcomes.engine_failure(f"the engine's answer is not as expected: {exc!r}")
            raise AttemptFailedError(Outcome.ENGINE, failure) from exc
        return await self._reply(call, whole)

    async def _send(self, call: RequestContext, upstream: Upstream, request: InferenceRequest) -> Connection:
        """The connection on which the head of the engine's answer has come."""
        replica = upstream.replica
        try:
            request_checks.check(
                request, vocab_size=replica.vocab_size, task=call.route.task, dialect=upstream.dialect.name
            )
            wanted = upstream.dialect.request(request, replica.served_name)
        except UnsupportedError as exc:
            failure = outcomes.unsupported(exc.message, exc.param)
            raise AttemptFailedError(Outcome.UNSUPPORTED, failure, asked=False) from exc
        except InvalidRequestError as exc:
            raise AttemptFailedError(Outcome.CLIENT, outcomes.client_failure(exc), asked=False) from exc
        # its own for each attempt: an engine takes a second request of the same id for the first one
        call.ignored = wanted.ignored
        headers = {"x-request-id": f"{call.request_id}-{self._request_ids.new()}"}
        limit_s = self._limit_s(call)
        try:
            head = upstream.pool.request(wanted.path, wanted.body, headers, limit_s, wanted.content_type)
            return await self._while_alive(call, upstream, head)
        except UpstreamFailureError as exc:
            raise failed(exc, limit_s) from exc

    async def _read(
        self, call: RequestContext, upstream: Upstream, request: InferenceRequest, connection: Connection
    ) -> EngineResponse:
        """A whole answer."""
        limit_s = self._limit_s(call)
        try:
            reading = connection.read_all(limit_s)
            body = await (reading if connection.ended else self._while_alive(call, upstream, reading))
        except UpstreamFailureError as exc:
            raise failed(exc, limit_s) from exc
        answer = upstream.dialect.answer(request, call.route.name, connection.status, body)
        if isinstance(answer, Failure):
            retry_after_s = outcomes.retry_after_s(connection.headers.get(b"retry-after"))
            raise AttemptFailedError(
                outcomes.outcome_of(answer, connection.status), answer, retry_after_s=retry_after_s
            )
        if request.stream:
            failure = outcomes.engine_failure("the engine gave a whole answer where a stream was asked for")
            raise AttemptFailedError(Outcome.ENGINE, failure)
        if (wanted := expectation(request)) and (problem := wanted.problem_in(orjson.loads(answer.body))):
            raise AttemptFailedError(Outcome.UNFIT, outcomes.unfit(problem))
        return answer

    async def _reply(self, call: RequestContext, answer: EngineResponse, content_type: bytes = JSON) -> Result:
        call.usage = answer.usage
        self._meter.tokens(call.route.name, answer.usage)
        await call.reply(answer.body, content_type)
        return Result()

    async def _stream(
        self, call: RequestContext, upstream: Upstream, request: InferenceRequest, connection: Connection, begun: float
    ) -> Result:
        relay = UpstreamStream(_decoder(upstream, request, call.route.name), upstream)
        wanted = expectation(request) if expected_choices(request) == 1 else None
        if wanted or (continuation.obstacle(request) is None and self._upstreams.has_twin(upstream)):
            relay.keep()
        frames = await self._open(connection, relay, begun)
        self._upstreams.begun(upstream)
        if call.first_token_s is None:
            call.first_token_s = time.monotonic() - call.since
            self._meter.first_token(call.route.name, call.first_token_s)
        if not call.flight.started:
            await call.start()
        pump = StreamForwarder(relay, connection, call.flight, self._rounds, call.translate)
        try:
            failure = await self._pump(call, pump, frames)
        finally:
            call.usage = relay.usage
            self._meter.frames(upstream.replica, relay.frames)
            self._meter.tokens(call.route.name, relay.usage)
        if failure is not None:
            return Result(outcome=_outcome_of(failure, Outcome.CUT), cut=failure, relay=relay)
        if wanted and (problem := _problem(wanted, relay)):
            return Result(outcome=Outcome.UNFIT, cut=outcomes.unfit(problem))
        await call.end(pump.last)
        await _finish(connection)
        return Result()

    async def _open(self, connection: Connection, relay: UpstreamStream, begun: float) -> bytes:
        """The first frames, up to one that says something. Until then a failure is one of the attempt."""
        limit_s = self._limits.first_token_timeout_s
        frames = b""
        while not relay.opened:
            try:
                chunk = await connection.read(begun + limit_s - time.monotonic())
            except UpstreamFailureError as exc:
                raise failed(exc, limit_s) from exc
            frames += relay.feed(chunk)
            failure = relay.failure
            if not chunk:
                failure = relay.end() or outcomes.engine_failure("the engine's stream was empty")
            if failure is not None:
                raise AttemptFailedError(_outcome_of(failure, outcomes.outcome_of(failure)), failure)
        return frames

    async def _pump(self, call: RequestContext, pump: StreamForwarder, frames: bytes) -> Failure | None:
        """The rest of the stream, after its first frames. Returns a Failure where it did not end well."""
        if frames.endswith(DONE):
            pump.last = frames
            return None
        await call.more(frames)
        timeout_s = self._limits.token_timeout_s
        try:
            return await pump.run(timeout_s)
        except UpstreamFailureError as exc:  # a cut after the last frame took nothing from the client
            pump.last = DONE
            return pump.end() and failed(exc, timeout_s).failure

    async def _while_alive(self, call: RequestContext, upstream: Upstream, answer: Coroutine[Any, Any, T]) -> T:
        """`answer`, which may take as long as it likes where it is the text of a whole one; HangsError when the replica
        is found to hang meanwhile.
        """
        if call.request.stream or call.request.operation not in _TEXTS:
            return await answer
        with self._liveness.waiting(call, upstream):
            return await answer

    def _limit_s(self, call: RequestContext) -> float:
        """How long the engine may take: for its first token, or for the whole answer when it is not streamed."""
        first_s = self._limits.first_token_timeout_s
        if call.request.stream or call.request.operation not in _TEXTS:
            return first_s
        body = call.request.body
        tokens = body.get("max_completion_tokens") or body.get("max_tokens") or call.route.context or _TOKENS_UNBOUNDED
        return first_s + tokens / _SLOWEST_TOKENS_PER_S


async def _finish(connection: Connection) -> None:
    """A connection can only be used again when the answer's end was read."""
    if not connection.ended:
        with suppress(UpstreamFailureError):
            await connection.read(_END_S)


def _decoder(upstream: Upstream, request: InferenceRequest, model: str) -> StreamDecoder:
    decoder = upstream.dialect.stream(request, model)
    wanted = expectation(request) if expected_choices(request) > 1 else None
    return ValidatingDecoder(decoder, wanted) if wanted is not None else decoder


def _outcome_of(failure: Failure, outcome: Outcome) -> Outcome:
    """`outcome`, but for a choice that is complete and not what was asked for: the replica is well."""
    return Outcome.UNFIT if failure.code == _UNFIT_CODE else outcome


def _problem(wanted: OutputSchema, relay: UpstreamStream) -> str | None:
    so_far = relay.transcript()
    return wanted.problem(so_far.text, so_far.finish_reason)


def _is_stream(connection: Connection) -> bool:
    return connection.status == 200 and connection.headers.get(b"content-type", b"").startswith(b"text/event-stream")
