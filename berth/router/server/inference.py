"""POST of the client APIs, as plain ASGI applications: nothing of a framework is on the path of a token."""

from collections.abc import Mapping
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from berth.apis import model_header
from berth.apis.base import NO_HEADERS, ApiFormat, Headers, Immediate
from berth.canonical import InferenceRequest
from berth.dialects import references
from berth.errors import ApiError, NotReadyError
from berth.log import log
from berth.router.balancing import affinity
from berth.router.exchange.headers import priority
from berth.router.exchange.inflight import ClientGoneError, StopReason, read_body
from berth.router.exchange.request import CLIENT_GONE, RequestContext
from berth.router.exchange.responses import Reply
from berth.router.worker import Worker


class Inference:
    """POST of one client API. This is the boundary of a request: every error becomes a response here."""

    def __init__(self, worker: Worker, api: ApiFormat) -> None:
        self._worker = worker
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker = self._worker
        headers = dict(scope["headers"])
        ctx = RequestContext(self._api, worker.request_ids.of(headers), worker.inflight.begin(receive, send))
        try:
            if not await ctx.inflight.guard(self._respond(ctx, headers)):
                if ctx.inflight.stopped is StopReason.DRAIN:
                    await ctx.fail(NotReadyError("Berth is shutting down.", retry_after_s=5))
                else:
                    ctx.status = CLIENT_GONE
                    if ctx.inflight.stopped is StopReason.STALLED:  # the incomplete response closes the connection
                        log.warning("client stalled, request aborted", request=ctx.request_id, model=ctx.model)
        except Exception:
            if not ctx.inflight.started:
                raise
            log.exception("response aborted", request=ctx.request_id, model=ctx.model)
        finally:
            worker.inflight.end(ctx.inflight)
            duration_s = worker.meter.observe(ctx)
            if worker.access_log.enabled and ctx.accepted:
                worker.access_log.add(ctx, duration_s)

    async def _respond(self, ctx: RequestContext, headers: Mapping[bytes, bytes]) -> None:
        try:
            if not await self._accept(ctx, headers):
                return
            with self._worker.meter.in_flight(ctx.model):
                await self._worker.proxy.serve(ctx)
        except ClientGoneError:
            ctx.status = CLIENT_GONE
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

    async def _accept(self, ctx: RequestContext, headers: Mapping[bytes, bytes]) -> bool:
        """False: the response is out already. ApiError for a request that no engine gets."""
        worker = self._worker
        worker.auth.check(headers)
        body = await read_body(headers, ctx.inflight, worker.plan.limits)
        worker.inflight.body_read(ctx.inflight)
        request = self._api.parse(body, headers)
        route = worker.catalog.resolve(request.model, self._api.operation)
        if isinstance(request, Immediate):
            ctx.model = route.name
            await ctx.send(Reply(body=request.body, content_type=request.content_type))
            return False
        if names := references.hosts_named(request, worker.fetching):
            await worker.addresses.require_public(names)
        if route.base:
            request = replace(request, adapter=route.name)
        if not request.model:
            request = replace(request, model=route.name)
        if request.at_most and route.context is not None and request.body.get("max_tokens", 0) >= route.context:
            # engines reject a max_tokens that fills the context; without one the response may use all of it
            request = replace(request, body={k: value for k, value in request.body.items() if k != "max_tokens"})
        session = affinity.session(headers, request) if route.name in worker.with_affinity else b""
        ctx.accept(request, route, session=session, priority=priority(headers))
        return True


class NamedModel:
    """A client API below the path of a model, whose name counts: Hugging Face's clients send a dummy in the body."""

    def __init__(self, api: ApiFormat) -> None:
        self._api = api
        self.operation, self.stream_type, self.native = api.operation, api.stream_type, api.native
        self.request_id_header = api.request_id_header
        self.response, self.stream, self.status, self.error = api.response, api.stream, api.status, api.error

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest | Immediate:
        parsed = self._api.parse(body, headers)
        return replace(parsed, model=headers[model_header.HEADER].decode("latin-1"))


class OfModel:
    """POST of a path with a model's name, for clients whose API has no field for it."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = (model_header.HEADER, scope["path_params"]["name"].encode("latin-1", "replace"))
        await self._inference({**scope, "headers": [*scope["headers"], named]}, receive, send)
