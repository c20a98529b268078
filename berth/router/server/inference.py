"""What lies behind each path, as plain ASGI applications: on the way of a token there is nothing of a framework."""

from collections.abc import Mapping
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from berth.apis import model_header
from berth.apis.base import ApiFormat, Immediate
from berth.canonical import InferenceRequest
from berth.dialects import references
from berth.errors import ApiError
from berth.log import log
from berth.router.balancing import affinity
from berth.router.exchange.headers import priority
from berth.router.exchange.inflight import ClientGoneError, InflightRequest, read_body
from berth.router.exchange.request import RequestContext, request_id_headers
from berth.router.exchange.responses import Reply, error_headers, write
from berth.router.telemetry.metrics import CLIENT_GONE, NO_MODEL
from berth.router.worker import Worker


class Inference:
    """POST of one client API."""

    def __init__(self, worker: Worker, api: ApiFormat) -> None:
        self._worker = worker
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        flights = self._worker.flights
        flight = flights.begin(receive, send)
        try:
            try:
                call = await self._read(headers, flight)
            except ApiError as error:
                await self._refuse(error, headers, send)
                return
            except ClientGoneError:
                self._worker.meter.request(NO_MODEL, self._api.operation, CLIENT_GONE)
                return
            flights.body_read(flight)
            if isinstance(call, Immediate):
                await self._answer(call, headers, send)
            else:
                await self._serve(call)
        finally:
            flights.end(flight)

    async def _read(self, headers: Mapping[bytes, bytes], flight: InflightRequest) -> RequestContext | Immediate:
        """ApiError for a request that is refused before any engine is asked."""
        self._worker.gate.check(headers)
        body = await read_body(headers, flight, self._worker.plan.limits)
        request = self._api.parse(body, headers)
        route = self._worker.catalog.resolve(request.model, self._api.operation)
        if isinstance(request, Immediate):
            return request
        if names := references.hosts_named(request, self._worker.fetching):
            await self._worker.addresses.require_public(names)
        if route.base:
            request = replace(request, adapter=route.name)
        if not request.model:
            request = replace(request, model=route.name)
        return RequestContext(
            api=self._api,
            request=_within(request, route.context),
            route=route,
            request_id=self._worker.request_ids.of(headers),
            flight=flight,
            session=affinity.session(headers, request) if route.name in self._worker.with_affinity else b"",
            priority=priority(headers),
        )

    async def _serve(self, call: RequestContext) -> None:
        try:
            await self._worker.proxy.serve(call)
        except Exception:
            if not call.flight.started:
                raise
            log.exception("an answer was broken off", request=call.request_id, model=call.route.name)

    async def _refuse(self, error: ApiError, headers: Mapping[bytes, bytes], send: Send) -> None:
        self._worker.meter.request(NO_MODEL, self._api.operation, self._api.status(error))
        reply = Reply(status=self._api.status(error), body=self._api.error(error), headers=error_headers(error))
        await write(send, reply, request_id_headers(self._api, self._worker.request_ids.of(headers)))

    async def _answer(self, immediate: Immediate, headers: Mapping[bytes, bytes], send: Send) -> None:
        route = self._worker.catalog.resolve(immediate.model)
        self._worker.meter.request(route.name, self._api.operation, 200)
        reply = Reply(body=immediate.body, content_type=immediate.content_type)
        await write(send, reply, request_id_headers(self._api, self._worker.request_ids.of(headers)))


class OfModel:
    """POST of a path that ends in a model's name, for clients whose API has no field for it."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = (model_header.HEADER, scope["path_params"]["name"].encode("latin-1", "replace"))
        await self._inference({**scope, "headers": [*scope["headers"], named]}, receive, send)


def _within(request: InferenceRequest, context: int | None) -> InferenceRequest:
    """Engines refuse a max_tokens that fills the context alone; without one an answer may get as long as fits."""
    if not request.at_most or context is None or request.body.get("max_tokens", 0) < context:
        return request
    return replace(request, body={name: value for name, value in request.body.items() if name != "max_tokens"})
