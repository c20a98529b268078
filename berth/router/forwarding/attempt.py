"""One attempt: a request to one replica, and its response to the client."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from berth import json_text
from berth.apis.base import EncodingError
from berth.canonical import (
    EngineResponse,
    Failure,
    FailureKind,
    InferenceRequest,
    Json,
    Operation,
    Transcript,
    UpstreamRequest,
)
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.choices import expected_choices
from berth.dialects.failures import engine_failure, unfit_failure, unsupported_failure
from berth.errors import InvalidRequestError, TooLargeError
from berth.log import log
from berth.plan import Limits
from berth.router.balancing.admission import Admission
from berth.router.balancing.hang_detector import HangDetector, HangsError
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange import outcomes, tracing
from berth.router.exchange.headers import RequestIds
from berth.router.exchange.heartbeats import Heartbeats
from berth.router.exchange.off_loop import LARGE_BYTES, OffLoop
from berth.router.exchange.outcomes import Attempt, ContinuationBlocker, Outcome
from berth.router.exchange.request import RequestContext
from berth.router.exchange.responses import JSON, Reply
from berth.router.forwarding import continuation, embedding_batches, response_limits
from berth.router.forwarding.output_schema import OutputSchema, ValidatingDecoder, expectation
from berth.router.forwarding.recording_decoder import MirroredDecoder, RecordingDecoder
from berth.router.forwarding.stream import PIECE_BYTES, FlushRounds, NoContentError, StreamForwarder, is_opening
from berth.router.telemetry.metrics import Meter
from berth.router.telemetry.request_journal import RequestJournal
from berth.router.upstream.connection import (
    ConnectFailedError,
    Connection,
    PreemptedError,
    ResponseTimeoutError,
    UpstreamFailureError,
)
from berth.sse import DONE, frames_of

_TOKENIZE_S = 2.0
_END_S = 0.05  # from an engine's [DONE] to the end of its response; usually they come together
_SLOWEST_TOKENS_PER_S = 1.0  # a non-streaming response may take this long per token; slower ones have to be streamed
_LARGEST_LIMIT = 1 << 31  # of tokens: clients may state any integer
_MOST_TOKENS = 32_768  # of a response if neither the request nor the model limits it
_STOPPED = Outcome.STOPPED  # see berth.canonical.CHAT
_TEXT = frozenset({Operation.CHAT, Operation.COMPLETION})
_NO_HEARTBEATS = nullcontext()  # there is no stream yet
_UNFIT_CODE = unfit_failure("").code

T = TypeVar("T")


class AttemptFailedError(Exception):
    """Nothing of this attempt has reached the client: another replica may get the request."""

    def __init__(self, outcome: Outcome, failure: Failure, *, retry_after_s: float = 0.0, sent: bool = True) -> None:
        super().__init__(failure.message)
        self.outcome = outcome
        self.failure = failure
        self.retry_after_s = retry_after_s  # of an overloaded or loading engine; 0: it gives none
        self.sent = sent  # False: the request did not reach the engine


@dataclass(slots=True, kw_only=True)
class Result:
    """The end of an attempt that has reached the client."""

    outcome: Outcome = Outcome.OK
    cut: Failure | None = None  # why the stream is incomplete
    blocker: ContinuationBlocker | None = None  # why no other engine can complete it
    hangs: bool = False  # it is, because the engine fell silent
    decoder: StreamDecoder | None = None  # of such a stream: it knows what the client has


def failed_attempt(upstream: Upstream, outcome: Outcome, failure: Failure, retry_after_s: float = 0.0) -> Attempt:
    replica = upstream.replica
    return Attempt(
        replica=replica.name, engine=replica.engine, outcome=outcome, failure=failure, retry_after_s=retry_after_s
    )


class Attempts:
    """Makes the attempts of one worker."""

    def __init__(
        self,
        upstreams: Upstreams,
        admission: Admission,
        hang_detector: HangDetector,
        *,
        limits: Limits,
        meter: Meter,
        journal: RequestJournal,
        request_ids: RequestIds,
        off_loop: OffLoop,
    ) -> None:
        self._upstreams = upstreams
        self._admission = admission
        self._hang_detector = hang_detector
        self._limits = limits
        self._meter = meter
        self._journal = journal
        self._request_ids = request_ids
        self._off_loop = off_loop
        self._rounds = FlushRounds()

    async def make(self, ctx: RequestContext, upstream: Upstream, request: InferenceRequest) -> Result:
        """AttemptFailedError if nothing of the attempt has reached the client."""
        ctx.attempts += 1
        ctx.served_by, ctx.served_headers = upstream.replica, upstream.response_headers
        outcome, retry_after_s, sent = _STOPPED, 0.0, True
        ctx.began, limit_s = time.monotonic(), self._limits.first_token_timeout_s
        if not request.stream and request.operation in _TEXT:
            limit_s += (_most_tokens(ctx) or _MOST_TOKENS) / _SLOWEST_TOKENS_PER_S
        upstream.breaker.begin(ctx.began)
        self._admission.begin(upstream)
        try:
            try:
                result = await (self._stream if request.stream else self._whole)(ctx, upstream, request, limit_s)
            except UpstreamFailureError as exc:
                raise _failed(exc, limit_s) from exc
            outcome = result.outcome
        except AttemptFailedError as exc:
            outcome, retry_after_s, sent = exc.outcome, exc.retry_after_s, exc.sent
            ctx.failures.append(failed_attempt(upstream, outcome, exc.failure, retry_after_s))
            if outcome is Outcome.CONFIG:
                self._upstreams.misconfigured(upstream, exc.failure.message)
            raise
        finally:
            self._meter.attempt(upstream.replica, outcome)
            if ctx.trace.sampled and sent:
                self._journal.put_attempt(ctx, outcome, continues=request is not ctx.request)
            self._upstreams.record(upstream, outcome if sent else _STOPPED, retry_after_s)
            self._admission.end(upstream)
        if ctx.usage.implausible:
            log.warning("implausible token counts ignored", request=ctx.request_id, replica=upstream.replica.name)
        return result

    async def count_tokens(self, upstream: Upstream, so_far: Transcript) -> Transcript:
        """The transcript with the number of tokens that this replica counts in its text: a busy engine puts several
        into one frame. Unchanged if the replica does not respond.
        """
        body = {"model": upstream.replica.served_name, "prompt": so_far.text, "add_special_tokens": False}
        try:
            connection = await upstream.pool.request("/tokenize", json_text.dumps(body), {}, _TOKENIZE_S)
            try:
                response = await connection.read_all(_TOKENIZE_S, response_limits.count_bytes(connection.asked_bytes))
            finally:
                upstream.pool.release(connection)
            count = json_text.loads(response)["count"]
        except (UpstreamFailureError, ValueError, KeyError, TypeError):
            return so_far
        if not isinstance(count, int) or count > connection.asked_bytes:  # a token takes a byte at least
            return so_far
        return replace(so_far, tokens=max(so_far.tokens, count))

    def _spelled(self, ctx: RequestContext, upstream: Upstream, request: InferenceRequest) -> UpstreamRequest:
        """In the words of its engine."""
        if upstream.fragile and request.body.get("continue_final_message") and self._upstreams.begins_again(upstream):
            message = "the server would begin a new answer instead of continuing the last message"
            raise AttemptFailedError(Outcome.UNSUPPORTED, unsupported_failure(message, "messages"), sent=False)
        replica, spell = upstream.replica, upstream.dialect.request
        try:
            return spell(request, replica.served_name, task=ctx.route.task, vocab_size=replica.vocab_size)
        except UnsupportedError as exc:
            failure = unsupported_failure(exc.message, exc.param)
            raise AttemptFailedError(Outcome.UNSUPPORTED, failure, sent=False) from exc
        except InvalidRequestError as exc:
            raise AttemptFailedError(Outcome.CLIENT, outcomes.client_failure(exc), sent=False) from exc

    def _send(
        self, ctx: RequestContext, upstream: Upstream, sent: UpstreamRequest, limit_s: float
    ) -> Coroutine[Any, Any, Connection]:
        """The connection with the head of the engine's response. Hand it to `pool.release`."""
        replica, ids = upstream.replica, self._request_ids
        ctx.ignored = sent.ignored
        # a new id for each attempt: an engine mistakes a second request of the same id for the first one
        headers = {"x-request-id": ids.new_uuid() if upstream.needs_uuid else f"{ctx.request_id}-{ids.new()}"}
        if ctx.trace.trace_id:
            headers |= tracing.headers(ctx.trace, ctx.attempts)
        if replica.launch is None:  # attached: it may be a Berth, whose fallback is this one
            headers["x-berth-hops"] = str(ctx.hops + 1)
        if ctx.recording is not None:
            ctx.recording.sent(replica.name, sent, headers)
        head = upstream.pool.request(sent.path, sent.body, headers, limit_s, sent.content_type)
        return self._watched(ctx, upstream, head)

    def _watched(
        self, ctx: RequestContext, upstream: Upstream, response: Coroutine[Any, Any, T]
    ) -> Coroutine[Any, Any, T]:
        """Texts that are not streamed may take long: there the hang detector looks for hangs."""
        if not upstream.limit or ctx.request.stream or ctx.request.operation not in _TEXT:
            return response
        return self._hang_detector.watch(ctx.inflight, upstream, response)

    # responses that are not streamed

    async def _whole(
        self, ctx: RequestContext, upstream: Upstream, request: InferenceRequest, limit_s: float
    ) -> Result:
        batch = upstream.replica.batch
        parts = (request,) if batch is None else embedding_batches.parts(request, batch)
        responses, content_type = [], JSON
        for part in parts:  # in turn: together they are as much work as the client's request
            spell = self._spelled
            sent = await self._off_loop.run(spell, ctx, upstream, part) if ctx.large else spell(ctx, upstream, part)
            connection = await self._send(ctx, upstream, sent, limit_s)
            try:
                responses.append(await self._read(ctx, upstream, part, connection, limit_s))
                if request.media:
                    content_type = connection.headers.get(b"content-type", JSON)
            finally:
                upstream.pool.release(connection)
            if len(parts) > 1 and sum(len(one.body) for one in responses) > response_limits.MAX_RESPONSE_BYTES:
                raise TooLargeError("The response would be too long. Send fewer inputs.", should_retry=False)
        try:
            response = responses[0] if len(responses) == 1 else embedding_batches.joined(responses)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
            failure = engine_failure(f"unexpected response of the engine: {exc!r}")
            raise AttemptFailedError(Outcome.ENGINE, failure) from exc
        ctx.usage = response.usage
        if ctx.mirrored is not None:
            ctx.mirrored.begin().add(response.body)
        try:
            is_large = len(response.body) > LARGE_BYTES
            encoded = await self._off_loop.run(ctx.encoded, response.body) if is_large else ctx.encoded(response.body)
        except EncodingError as exc:  # another engine may say it in another way
            raise AttemptFailedError(Outcome.UNFIT, _untranslatable(ctx, exc)) from exc
        await ctx.send(Reply(body=encoded, content_type=content_type))
        return Result()

    async def _read(
        self,
        ctx: RequestContext,
        upstream: Upstream,
        request: InferenceRequest,
        connection: Connection,
        limit_s: float,
    ) -> EngineResponse:
        """A complete response, of an engine that was to stream too. AttemptFailedError for an error response, and for
        one that does not match the requested format.
        """
        if connection.complete:  # it came with its head, as short ones do
            body = connection.take()
        else:
            reading = connection.read_all(limit_s, _most_bytes(ctx, request, connection, streamed=False))
            body = await self._watched(ctx, upstream, reading)
        if ctx.recording is not None:
            ctx.recording.answered(connection.status, connection.headers, body)
        name, status, read = ctx.route.name, connection.status, upstream.dialect.answer
        if len(body) > LARGE_BYTES:
            response = await self._off_loop.run(read, request, name, status, body)
        else:
            response = read(request, name, status, body)
        if isinstance(response, Failure):
            retry_after_s = outcomes.retry_after_s(connection.headers.get(b"retry-after"))
            outcome = _outcome_of(response, outcomes.outcome_of(response, connection.status, retry_after_s))
            raise AttemptFailedError(outcome, response, retry_after_s=retry_after_s)
        if request.stream:
            failure = engine_failure("the engine did not stream its response")
            raise AttemptFailedError(Outcome.ENGINE, failure)
        if (schema := expectation(request)) and (problem := schema.problem_in(json_text.loads(response.body))):
            raise AttemptFailedError(Outcome.UNFIT, unfit_failure(problem))
        return response

    # streams

    async def _stream(
        self, ctx: RequestContext, upstream: Upstream, request: InferenceRequest, limit_s: float
    ) -> Result:
        ends = time.monotonic() + limit_s
        waiting = Heartbeats(ctx) if ctx.inflight.started else _NO_HEARTBEATS
        spell = self._spelled
        async with waiting:
            large = ctx.large
            sent = await self._off_loop.run(spell, ctx, upstream, request) if large else spell(ctx, upstream, request)
            connection = await self._send(ctx, upstream, sent, limit_s)
        try:
            content_type = connection.headers.get(b"content-type", b"")
            if connection.status != 200 or not content_type.startswith(upstream.dialect.stream_type):
                await self._read(ctx, upstream, request, connection, limit_s)  # raises
            connection.allow(_most_bytes(ctx, request, connection, streamed=True))
            decoder, schema = self._decoder(ctx, upstream, request)
            if ctx.recording is not None:
                decoder = RecordingDecoder(decoder, ctx.recording.answered(connection.status, connection.headers))
            if ctx.mirrored is not None:
                decoder = MirroredDecoder(decoder, ctx.mirrored.begin())
            decoder.limit_frames(response_limits.frame_bytes(request, connection.asked_bytes))
            async with waiting:
                frames = await self._open(decoder, connection, ends)
            self._upstreams.stream_begun(upstream)
            if ctx.first_token_s is None:
                ctx.first_token_s = time.monotonic() - ctx.since
            if not ctx.inflight.started:
                await ctx.start()
            return await self._forward(ctx, upstream, connection, decoder, schema=schema, frames=frames)
        except EncodingError as exc:
            await ctx.write(exc.sent)
            return Result(outcome=Outcome.UNFIT, cut=_untranslatable(ctx, exc), blocker=ContinuationBlocker.ENCODING)
        finally:
            upstream.pool.release(connection)

    def _decoder(
        self, ctx: RequestContext, upstream: Upstream, request: InferenceRequest
    ) -> tuple[StreamDecoder, OutputSchema | None]:
        """`decoder` checks the schema of each choice where they are several. Of a single one the whole text is checked
        at its end, against the schema that is returned.
        """
        decoder = upstream.dialect.stream(request, ctx.route.name)
        schema = expectation(request)
        if schema is not None and expected_choices(request) > 1:
            return ValidatingDecoder(decoder, schema), None
        if schema is not None or (self._upstreams.may_move(upstream) and continuation.blocker(request) is None):
            decoder.keep()
        return decoder, schema

    async def _open(self, decoder: StreamDecoder, connection: Connection, ends: float) -> bytes:
        """The first frames, up to one with content. Until then a failure is one of the attempt."""
        frames, rest = bytearray(), b""
        opened = False
        while not opened or rest:
            chunk = rest or await connection.read(ends - time.monotonic())
            if len(chunk) > PIECE_BYTES:
                await asyncio.sleep(0)  # other requests have a turn
            chunk, rest = chunk[:PIECE_BYTES], chunk[PIECE_BYTES:]
            decoded = decoder.feed(chunk)
            frames += decoded
            opened = opened or not all(is_opening(frame) for frame in frames_of(decoded))
            failure = decoder.failure
            if not chunk:
                failure = decoder.end() or engine_failure("the engine's stream was empty")
            elif failure is None and len(frames) > response_limits.HELD_BACK_BYTES and not opened:
                failure = engine_failure(f"the engine sent {len(frames) >> 20} MiB of frames without content")
            if failure is not None:
                raise AttemptFailedError(_outcome_of(failure, outcomes.outcome_of(failure)), failure)
        return bytes(frames)

    async def _forward(
        self,
        ctx: RequestContext,
        upstream: Upstream,
        connection: Connection,
        decoder: StreamDecoder,
        *,
        schema: OutputSchema | None,
        frames: bytes,
    ) -> Result:
        """The first frames and the rest of the stream."""
        forwarder = StreamForwarder(decoder, upstream, connection, ctx.inflight, self._rounds, encoder=ctx.encoder)
        timeout_s = self._limits.token_timeout_s
        ctx.decoder, failure, hangs, outcome = decoder, None, False, Outcome.CUT
        try:
            if frames.endswith(DONE):
                forwarder.last = frames
            else:
                await ctx.more(frames)
                failure = await forwarder.run(timeout_s)
        except UpstreamFailureError as exc:  # a cut after the last frame takes nothing from the client
            forwarder.last, outcome = DONE, Outcome.PREEMPTED if isinstance(exc, PreemptedError) else Outcome.CUT
            hangs = isinstance(exc, ResponseTimeoutError | NoContentError)
            failure = decoder.end() and _failed(exc, timeout_s).failure
        finally:
            ctx.usage = decoder.usage
            ctx.decoder, ctx.frames = None, ctx.frames + decoder.frames
            self._meter.frames(upstream.replica, decoder.frames)
        if failure is not None:
            return Result(outcome=_outcome_of(failure, outcome), cut=failure, hangs=hangs, decoder=decoder)
        if schema is not None:
            transcript = decoder.transcript()
            if problem := schema.problem(transcript.text, transcript.finish_reason):
                unfit = unfit_failure(problem)
                return Result(outcome=Outcome.UNFIT, cut=unfit, blocker=ContinuationBlocker.CONSTRAINT)
        await ctx.end(forwarder.last)
        if not connection.complete:  # it can only be used again when the end of the response was read
            with suppress(UpstreamFailureError):
                await connection.read(_END_S)
        return Result()


def _most_tokens(ctx: RequestContext) -> int | None:
    """Of a choice; None if neither the request nor the model limits it."""
    body: Json = ctx.request.body
    most = body.get("max_completion_tokens") or body.get("max_tokens") or ctx.route.context
    return most and min(most, _LARGEST_LIMIT)


def _most_bytes(ctx: RequestContext, request: InferenceRequest, connection: Connection, *, streamed: bool) -> int:
    """Of the response, once its head was received."""
    announced = connection.headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) <= response_limits.SMALL_BYTES:
        return response_limits.SMALL_BYTES
    if not 200 <= connection.status < 300:
        return response_limits.error_bytes(connection.asked_bytes)
    return response_limits.response_bytes(request, connection.asked_bytes, _most_tokens(ctx), streamed=streamed)


def _untranslatable(ctx: RequestContext, exc: EncodingError) -> Failure:
    log.exception("response not translated", request=ctx.request_id, model=ctx.model)
    return engine_failure(f"the engine's response cannot be translated to the client's API: {exc}")


def _failed(exc: UpstreamFailureError, limit_s: float) -> AttemptFailedError:
    """Of a connection that broke, or was silent for `limit_s`."""
    if isinstance(exc, HangsError):
        return AttemptFailedError(Outcome.TIMEOUT, engine_failure(str(exc)))
    if isinstance(exc, ResponseTimeoutError):
        failure = engine_failure(f"no response from the engine for {limit_s:g} s")
        return AttemptFailedError(Outcome.TIMEOUT, failure)
    if isinstance(exc, PreemptedError):
        return AttemptFailedError(Outcome.PREEMPTED, engine_failure(str(exc)))
    outcome = Outcome.CONNECT if isinstance(exc, ConnectFailedError) else Outcome.BROKEN
    return AttemptFailedError(outcome, engine_failure(str(exc)))


def _outcome_of(failure: Failure, outcome: Outcome) -> Outcome:
    """`outcome`, except for a choice that is complete but does not match its format, or lacks what the replica does not
    support: it is healthy.
    """
    if failure.kind is FailureKind.UNSUPPORTED:
        return Outcome.UNSUPPORTED
    return Outcome.UNFIT if failure.code == _UNFIT_CODE else outcome
