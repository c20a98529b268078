"""POST of the client APIs, as plain ASGI applications: nothing of a framework is on the path of a token."""

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from berth.apis import json_weight, model_header
from berth.apis.base import NO_HEADERS, ApiFormat, Headers, Immediate
from berth.apis.openai.media import OpenaiForm
from berth.apis.responses.endpoints import OpenaiInputTokens, OpenaiResponses
from berth.canonical import InferenceRequest
from berth.dialects.requests.references import hosts_named
from berth.errors import ApiError, NotReadyError, UnsupportedTypeError
from berth.ipc.journal import APIS
from berth.log import log
from berth.router.balancing import affinity, prefixes
from berth.router.exchange.headers import HEADER, HOPS, hops, priority
from berth.router.exchange.inflight import DRAINED, StopReason, drain_error, read_body
from berth.router.exchange.off_loop import LARGE_BYTES
from berth.router.exchange.request import CLIENT_GONE, RequestContext
from berth.router.exchange.responses import JSON, Reply
from berth.router.telemetry.access_log import api_name
from berth.router.worker import Worker

_DEFAULT_TYPES: Final = frozenset(
    {b"", b"*/*", b"text/plain", b"application/x-www-form-urlencoded", b"application/octet-stream"}
)
_HEAVY: Final = 50_000  # of a body: its translation takes up to 20 ms
_REFERS: Final = re.compile(rb'previous_response_id|"id"|item_reference|\\u00')  # the last: it may be any of them
PREFIX: Final = "berth.prefix"  # of the path, in the scope of a request: a rule's
_BYTES_PER_WEIGHT: Final = 5  # of stored items: the smallest have 150 bytes and three objects or arrays


class Inference:
    """POST of one client API. This is the boundary of a request: every error becomes a response here."""

    def __init__(self, worker: Worker, api: ApiFormat) -> None:
        self._worker = worker
        self._api = api
        named = api.of_any if isinstance(api, NamedModel) else api
        self._takes_form = isinstance(named, OpenaiForm)
        self._api_index = APIS.index(api_name(type(named)))
        self._reads_stored = isinstance(named, OpenaiResponses | OpenaiInputTokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        recording = worker.captures.begin(scope, send) if worker.captures.current is not None else None
        sender = send if recording is None else recording.send
        inflight = worker.inflight.begin(receive, sender, scope.get("client"))
        ctx = RequestContext(self._api, worker.request_ids.of(headers), inflight)
        ctx.headers, ctx.recording = headers, recording
        if worker.rules is not None:
            ctx.prefix = scope.get(PREFIX, "")
        worker.journal.running[ctx] = self._api_index
        if worker.traces is not None:
            ctx.trace = worker.traces.begin(headers)
        try:
            try:
                await self._respond(ctx, headers)
            except asyncio.CancelledError:
                if not inflight.resume():
                    raise
                await _end_stopped(ctx)
        except Exception:
            if not inflight.started:
                raise
            log.exception("response aborted", request=ctx.request_id, model=ctx.model)
        finally:
            self._end(ctx)

    def _end(self, ctx: RequestContext) -> None:
        """Whatever became of the request, it is counted and recorded."""
        worker = self._worker
        worker.inflight.end(ctx.inflight)
        ctx.ended = time.monotonic()
        duration_s = worker.meter.observe(ctx)
        worker.journal.put(ctx, self._api_index)
        if worker.access_log.enabled and ctx.accepted:
            worker.access_log.add(ctx, duration_s)
        if ctx.recording is not None:
            worker.captures.end(ctx.recording, ctx)
        if ctx.mirrored is not None:
            worker.shadows.end(ctx.mirrored, ctx)

    async def _respond(self, ctx: RequestContext, headers: Mapping[bytes, bytes]) -> None:
        try:
            if not await self._accept(ctx, headers):
                return
            meter, shadows = self._worker.meter, self._worker.shadows
            if shadows.current and ctx.model in shadows.current:
                ctx.mirrored = shadows.begin(ctx)
            meter.in_flight(ctx.model, 1)
            try:
                if ctx.key.slot and (turn := self._worker.limits.admit(ctx)) is not None:
                    await turn
                await self._worker.proxy.serve(ctx)
            finally:
                if ctx.key.slot:
                    self._worker.limits.settle(ctx)
                meter.in_flight(ctx.model, -1)
        except ApiError as error:
            if ctx.attempts:
                write = log.info if error.status < 500 else log.warning
                write(
                    "request failed",
                    request=ctx.request_id,
                    model=ctx.model,
                    status=error.status,
                    attempts=ctx.attempts,
                    reason=error.message,
                )
            await ctx.fail(error)
        except Exception:  # noqa: BLE001 - the boundary of a request: logged, and the client gets a 500
            log.exception("internal error", request=ctx.request_id, model=ctx.model)
            await ctx.fail(ApiError(f"Internal error of Berth on request {ctx.request_id!r}. See Berth's log."))

    async def _answer(self, ctx: RequestContext, request: Immediate) -> None:
        """The response to a request that needs no engine."""
        await ctx.send(Reply(body=request.body, content_type=request.content_type))

    def _check_head(self, ctx: RequestContext, headers: Mapping[bytes, bytes]) -> None:
        """Finds out whose request it is. ApiError for one whose body need not be read."""
        ctx.key = self._worker.auth.check(headers, ctx.inflight.client)
        ctx.inflight.key = ctx.key.slot
        if (given := headers.get(HOPS)) is not None:
            ctx.hops = hops(given)
        if self._worker.connections.full:
            raise NotReadyError(
                "Too many clients are connected.", code="too_many_connections", retry_after_s=1, should_retry=True
            )
        if headers.get(b"content-type", JSON) != JSON and not self._takes_form:
            check_json_type(headers[b"content-type"])

    async def _examine(self, ctx: RequestContext, body: bytes) -> None:
        """What few bodies need: the memory that the JSON takes is counted, a request that is large, or may refer to
        much, is marked, and one that is captured is kept. ApiError where there is no memory for it.
        """
        worker, weigh, size = self._worker, json_weight.weight, len(body)
        if size > json_weight.UNWEIGHED_BYTES:
            weight = weigh(body) if size <= LARGE_BYTES else await worker.off_loop.run(weigh, body)
            worker.inflight.hold(ctx.inflight, json_weight.memory_bytes(size, weight))
            ctx.large = weight > _HEAVY or size > LARGE_BYTES
        if self._reads_stored and _REFERS.search(body):
            ctx.large = True
        if ctx.recording is not None:
            ctx.recording.body.add(body)

    async def _accept(self, ctx: RequestContext, headers: Mapping[bytes, bytes]) -> bool:
        """False: the response is out already. ApiError for a request that no engine gets."""
        worker = self._worker
        self._check_head(ctx, headers)
        key = ctx.key
        body = await read_body(headers, ctx.inflight, worker.plan.limits, worker.inflight.memory)
        worker.inflight.body_read(ctx.inflight)
        if len(body) > json_weight.UNWEIGHED_BYTES or self._reads_stored or ctx.recording is not None:
            await self._examine(ctx, body)
        run = worker.off_loop.run if ctx.large else None
        request = await run(self._api.parse, body, headers) if run else self._api.parse(body, headers)
        route = (
            worker.catalog.resolve(request.model, self._api.operation, key)
            if worker.rules is None
            else worker.rules.decide(ctx, request, key)
        )
        if isinstance(request, Immediate):
            ctx.model, ctx.route, ctx.priority = route.name, route, priority(headers)
            await self._answer(ctx, request)
            return False
        if names := await run(hosts_named, request, worker.fetching) if run else hosts_named(request, worker.fetching):
            await worker.addresses.require_public(names)
        if earlier := request.earlier_bytes:
            earlier_bytes = json_weight.memory_bytes(earlier, earlier // _BYTES_PER_WEIGHT)
            worker.inflight.hold(ctx.inflight, ctx.inflight.held_bytes + earlier_bytes)
        if route.base or not request.model:
            adapter = (route.added or route.name) if route.base else request.adapter
            request = replace(request, adapter=adapter, model=request.model or route.name)
        if request.at_most and route.context is not None and request.body.get("max_tokens", 0) >= route.context:
            # engines reject a max_tokens that fills the context; without one the response may use all of it
            request = replace(request, body={k: value for k, value in request.body.items() if k != "max_tokens"})
        asked = priority(headers, "" if ctx.rule is None else ctx.rule.priority, key.priority)
        if HEADER in headers and asked.name.encode() != headers[HEADER].strip().upper():
            request = replace(request, ignored=(*request.ignored, HEADER.decode()))
        session = affinity.session(headers, request) if route.name in worker.with_affinity else b""
        begins = prefixes.beginnings(request) if route.name in worker.hot else ()
        ctx.accept(request, route, session=session, beginnings=begins, key=key, priority=asked)
        return True


async def _end_stopped(ctx: RequestContext) -> None:
    if ctx.inflight.stopped in DRAINED:
        await ctx.fail(drain_error(ctx.inflight.stopped))
        return
    ctx.status = CLIENT_GONE
    if ctx.inflight.stopped is StopReason.STALLED:  # the incomplete response closes the connection
        log.warning("client stalled, request aborted", request=ctx.request_id, model=ctx.model)


def check_json_type(content_type: bytes) -> None:
    """UnsupportedTypeError for a body that cannot be JSON. Programs that name no type send a default of theirs, curl's
    `-d` a form and fetch's text `text/plain`: that is JSON all the same. What web pages send is judged by its origin.
    """
    kind = content_type.partition(b";")[0].strip().lower()
    if b"json" not in kind and kind not in _DEFAULT_TYPES:
        shown = content_type.decode("latin-1")[:100]
        raise UnsupportedTypeError(f"Content-Type {shown!r} is not supported here: send application/json.")


class NamedModel:
    """A client API below the path of a model, whose name counts: Hugging Face's clients send a dummy in the body."""

    def __init__(self, api: ApiFormat) -> None:
        self.of_any = api
        self.operation, self.stream_type, self.native = api.operation, api.stream_type, api.native
        self.request_id_header = api.request_id_header
        self.response, self.stream, self.status, self.error = api.response, api.stream, api.status, api.error

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest | Immediate:
        parsed = self.of_any.parse(body, headers)
        return replace(parsed, model=headers[model_header.HEADER].decode("latin-1"))


class Prefixed:
    """POST of a path behind the prefix of a rule."""

    def __init__(self, prefix: str, inference: Inference) -> None:
        self._prefix = prefix
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PREFIX] = self._prefix
        await self._inference(scope, receive, send)


class OfModel:
    """POST of a path with a model's name, for clients whose API has no field for it."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = (model_header.HEADER, scope["path_params"]["name"].encode("latin-1", "replace"))
        await self._inference({**scope, "headers": [*scope["headers"], named]}, receive, send)
