"""One attempt on one replica: what it is asked, and its answer on the way to the client."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace

import orjson

from berth.canonical import Failure, InferenceRequest, Operation, Transcript
from berth.engines import guards
from berth.engines.base import UnsupportedError
from berth.engines.openai_stream import expected_choices
from berth.errors import InvalidRequestError
from berth.plan import Limits
from berth.router import continuation, routing
from berth.router.admission import Admission
from berth.router.call import Call
from berth.router.http_client import AnswerTimeoutError, ConnectFailedError, Connection, UpstreamFailureError
from berth.router.metrics import Meter
from berth.router.pump import Pump, Rounds
from berth.router.relay import Relay
from berth.router.replies import JSON
from berth.router.request_ids import RequestIds
from berth.router.routing import Attempt, Outcome
from berth.router.schema import Expectation, expectation
from berth.router.upstreams import Upstream, Upstreams
from berth.sse import DONE

_COUNT_S = 2.0
_END_S = 0.05  # from an engine's [DONE] to the end of its answer; usually they come together
_SLOWEST_TOKENS_PER_S = 1.0  # a whole answer may take this long per token; slower ones have to be streamed
_TOKENS_UNBOUNDED = 32_768  # of an answer, where neither the request nor the model says how long it may get
# What an outcome tells about the replica; of the others it tells nothing.
_WELL = frozenset({Outcome.OK, Outcome.CLIENT, Outcome.UNSUPPORTED, Outcome.OVERLOADED, Outcome.UNFIT})
ILL = frozenset({Outcome.CONNECT, Outcome.BROKEN, Outcome.TIMEOUT, Outcome.ENGINE, Outcome.CUT})


class AttemptFailedError(Exception):
    """Nothing of this attempt has reached the client: another replica may be asked."""

    def __init__(self, outcome: Outcome, failure: Failure) -> None:
        super().__init__(failure.message)
        self.outcome = outcome
        self.failure = failure


@dataclass(slots=True, kw_only=True)
class Result:
    """How an attempt ended that has reached the client."""

    outcome: Outcome = Outcome.OK
    cut: Failure | None = None  # why the stream is not whole
    relay: Relay | None = None  # of such a stream: it knows what the client has


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
        self._rounds = Rounds()

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

    async def make(self, call: Call, upstream: Upstream, request: InferenceRequest) -> Result:
        """One replica. AttemptFailedError when nothing of it has reached the client."""
        call.attempts += 1
        call.upstream = upstream
        outcome = Outcome.STOPPED
        upstream.breaker.begin(time.monotonic())
        self._meter.on_replica(upstream.replica, 1)
        try:
            result = await self._exchange(call, upstream, request)
            outcome = result.outcome
        except AttemptFailedError as exc:
            outcome = exc.outcome
            call.failures.append(attempt_of(upstream, outcome, exc.failure))
            raise
        finally:
            self._meter.on_replica(upstream.replica, -1)
            self._meter.attempt(upstream.replica, outcome)
            self._judge(upstream, outcome)
            self._admission.freed(call.route.name)
        return result

    def _judge(self, upstream: Upstream, outcome: Outcome) -> None:
        if outcome in _WELL:
            self._upstreams.succeeded(upstream)
        elif outcome in ILL:
            self._upstreams.failed(upstream, certain=outcome is Outcome.CONNECT)
        else:
            upstream.breaker.withdrawn()

    async def _exchange(self, call: Call, upstream: Upstream, request: InferenceRequest) -> Result:
        begun = time.monotonic()
        connection = await self._send(call, upstream, request)
        try:
            if request.stream and _is_stream(connection):
                return await self._stream(call, upstream, request, connection, begun)
            return await self._whole(call, upstream, request, connection)
        finally:
            upstream.pool.release(connection)

    async def _send(self, call: Call, upstream: Upstream, request: InferenceRequest) -> Connection:
        """The connection on which the head of the engine's answer has come."""
        replica = upstream.replica
        try:
            guards.check(request, vocab_size=replica.vocab_size, task=call.route.task, dialect=upstream.dialect.name)
            wanted = upstream.dialect.request(request, replica.served_name)
        except UnsupportedError as exc:
            raise AttemptFailedError(Outcome.UNSUPPORTED, routing.unsupported(exc.message, exc.param)) from exc
        except InvalidRequestError as exc:
            raise AttemptFailedError(Outcome.CLIENT, routing.client_failure(exc)) from exc
        # its own for each attempt: an engine takes a second request of the same id for the first one
        call.ignored = wanted.ignored
        headers = {"x-request-id": f"{call.request_id}-{self._request_ids.new()}"}
        limit_s = self._limit_s(call)
        try:
            return await upstream.pool.request(wanted.path, wanted.body, headers, limit_s, wanted.content_type)
        except UpstreamFailureError as exc:
            raise _failed(exc, limit_s) from exc

    async def _whole(self, call: Call, upstream: Upstream, request: InferenceRequest, connection: Connection) -> Result:
        limit_s = self._limit_s(call)
        try:
            body = await connection.read_all(limit_s)
        except UpstreamFailureError as exc:
            raise _failed(exc, limit_s) from exc
        answer = upstream.dialect.answer(request, call.route.name, connection.status, body)
        if isinstance(answer, Failure):
            raise AttemptFailedError(routing.outcome_of(answer), answer)
        if request.stream:
            failure = routing.engine_failure("the engine gave a whole answer where a stream was asked for")
            raise AttemptFailedError(Outcome.ENGINE, failure)
        if (wanted := expectation(request)) and (problem := wanted.problem_in(orjson.loads(answer.body))):
            raise AttemptFailedError(Outcome.UNFIT, routing.unfit(problem))
        call.usage = answer.usage
        self._meter.tokens(call.route.name, answer.usage)
        passed = connection.headers.get(b"content-type", JSON) if request.media else JSON
        await call.reply(answer.body, passed)
        return Result()

    async def _stream(
        self, call: Call, upstream: Upstream, request: InferenceRequest, connection: Connection, begun: float
    ) -> Result:
        relay = Relay(upstream.dialect.stream(request, call.route.name))
        wanted = expectation(request) if expected_choices(request) == 1 else None
        if wanted or (continuation.obstacle(request) is None and self._upstreams.has_twin(upstream)):
            relay.keep()
        frames = await self._open(connection, relay, begun)
        if call.first_token_s is None:
            call.first_token_s = time.monotonic() - call.since
            self._meter.first_token(call.route.name, call.first_token_s)
        if not call.flight.started:
            await call.start()
        pump = Pump(relay, connection, call.flight, self._rounds, call.translate)
        try:
            failure = await self._pump(call, pump, frames)
        finally:
            call.usage = relay.usage
            self._meter.frames(upstream.replica, relay.frames)
            self._meter.tokens(call.route.name, relay.usage)
        if failure is not None:
            return Result(outcome=Outcome.CUT, cut=failure, relay=relay)
        if wanted and (problem := _problem(wanted, relay)):
            return Result(outcome=Outcome.UNFIT, cut=routing.unfit(problem))
        await call.end(pump.last)
        await _finish(connection)
        return Result()

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
                raise AttemptFailedError(routing.outcome_of(failure), failure)
        return frames

    async def _pump(self, call: Call, pump: Pump, frames: bytes) -> Failure | None:
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
            return pump.end() and _failed(exc, timeout_s).failure

    def _limit_s(self, call: Call) -> float:
        """How long the engine may take: for its first token, or for the whole answer when it is not streamed."""
        first_s = self._limits.first_token_timeout_s
        if call.request.stream or call.request.operation not in {Operation.CHAT, Operation.COMPLETION}:
            return first_s
        body = call.request.body
        tokens = body.get("max_completion_tokens") or body.get("max_tokens") or call.route.context or _TOKENS_UNBOUNDED
        return first_s + tokens / _SLOWEST_TOKENS_PER_S


async def _finish(connection: Connection) -> None:
    """A connection can only be used again when the answer's end was read."""
    if not connection.ended:
        with suppress(UpstreamFailureError):
            await connection.read(_END_S)


def _problem(wanted: Expectation, relay: Relay) -> str | None:
    so_far = relay.transcript()
    return wanted.problem(so_far.text, so_far.finish_reason)


def _is_stream(connection: Connection) -> bool:
    return connection.status == 200 and connection.headers.get(b"content-type", b"").startswith(b"text/event-stream")


def _failed(exc: UpstreamFailureError, limit_s: float) -> AttemptFailedError:
    if isinstance(exc, AnswerTimeoutError):
        failure = routing.engine_failure(f"the engine said nothing for {limit_s:g} s")
        return AttemptFailedError(Outcome.TIMEOUT, failure)
    outcome = Outcome.CONNECT if isinstance(exc, ConnectFailedError) else Outcome.BROKEN
    return AttemptFailedError(outcome, routing.engine_failure(str(exc)))


def attempt_of(upstream: Upstream, outcome: Outcome, failure: Failure) -> Attempt:
    return Attempt(replica=upstream.replica.name, engine=upstream.replica.engine, outcome=outcome, failure=failure)
