"""What lies behind each path, as plain ASGI applications: on the way of a token there is nothing of a framework."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import parse_qs

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import Message, Receive, Scope, Send

from berth import __version__
from berth.apis import anthropic_models, nameless, tgi
from berth.apis.base import ApiFormat, Immediate
from berth.canonical import InferenceRequest, Operation
from berth.engines import guards
from berth.errors import ApiError, InvalidRequestError, RequestTimeoutError, TooLargeError
from berth.log import log
from berth.plan import Limits
from berth.router import affinity
from berth.router import status as status_document
from berth.router.call import Call, request_id_headers
from berth.router.flights import Flight
from berth.router.metrics import CLIENT_GONE, NO_MODEL, exposition
from berth.router.priority import priority
from berth.router.replies import Reply, error_headers, json_reply, write
from berth.router.worker import Worker

Build = Callable[[Worker, Scope], Reply]


class ClientGoneError(Exception):
    """The client left before its request was complete."""


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

    async def _read(self, headers: Mapping[bytes, bytes], flight: Flight) -> Call | Immediate:
        """ApiError for a request that is refused before any engine is asked."""
        self._worker.gate.check(headers)
        body = await read_body(headers, flight, self._worker.plan.limits)
        request = self._api.parse(body, headers)
        route = self._worker.catalog.resolve(request.model, self._api.operation)
        if isinstance(request, Immediate):
            return request
        if self._worker.plan.offline:
            guards.check_media(request)
        if route.base:
            request = replace(request, adapter=route.name)
        if not request.model:
            request = replace(request, model=route.name)
        return Call(
            api=self._api,
            request=_within(request, route.context),
            route=route,
            request_id=self._worker.request_ids.of(headers),
            flight=flight,
            session=affinity.session(headers, request) if route.name in self._worker.with_affinity else b"",
            priority=priority(headers),
        )

    async def _serve(self, call: Call) -> None:
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
        named = (nameless.HEADER, scope["path_params"]["name"].encode("latin-1", "replace"))
        await self._inference({**scope, "headers": [*scope["headers"], named]}, receive, send)


class Document:
    """GET (and HEAD) of what this worker knows by itself."""

    def __init__(self, worker: Worker, build: Build, *, needs_key: bool) -> None:
        self._worker = worker
        self._build = build
        self._needs_key = needs_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        headers = dict(scope["headers"])
        if self._needs_key:
            self._worker.gate.check(headers)
        reply = self._build(self._worker, scope)
        extra = [(b"x-request-id", self._worker.request_ids.of(headers).encode())]
        await write(send, reply, extra, head_only=scope["method"] == "HEAD")


def health(worker: Worker, scope: Scope) -> Reply:  # noqa: ARG001 - a Build's signature
    """Alive as long as it answers; whether models are ready is /ready's business."""
    return json_reply(status_document.health(worker.plan, worker.upstreams.state, now=time.time()))


def models(worker: Worker, scope: Scope) -> Reply:
    listing = worker.catalog.listing()
    if anthropic_models.is_anthropic(dict(scope["headers"])):
        listing = anthropic_models.model_list(listing["data"])
    return json_reply(listing)


def model(worker: Worker, scope: Scope) -> Reply:
    card = worker.catalog.card(scope["path_params"]["name"])
    if anthropic_models.is_anthropic(dict(scope["headers"])):
        card = anthropic_models.model_info(card)
    return json_reply(card)


def info(worker: Worker, scope: Scope) -> Reply:
    """TGI's, of the model of `?model=` or of the only one that generates."""
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("model", [""])[-1]
    route = worker.catalog.resolve(asked, Operation.COMPLETION)
    return json_reply(tgi.info(route.name, route.context, __version__))


def ready(worker: Worker, scope: Scope) -> Reply:
    """200 when every model can be asked, or the one of `?model=`; else 503. ModelNotFoundError for an unknown one."""
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("model")
    name = worker.catalog.resolve(asked[-1]).name if asked else None
    is_ready, document = status_document.readiness(worker.plan, worker.upstreams.statuses, name)
    return json_reply(document, status=200 if is_ready else 503)


def status(worker: Worker, scope: Scope) -> Reply:  # noqa: ARG001 - a Build's signature
    upstreams = worker.upstreams
    traffic = status_document.Traffic(
        down=upstreams.marked_down(),
        loads={replica.name: int(worker.meter.load(replica)) for replica in worker.plan.replicas},
        queues={route.name: worker.meter.queue_length(route.name) for route in worker.plan.models},
    )
    document = status_document.status(
        worker.plan, upstreams.state, upstreams.statuses, now=time.time(), traffic=traffic
    )
    return json_reply(document)


def metrics(worker: Worker, scope: Scope) -> Reply:  # noqa: ARG001 - a Build's signature
    body = exposition(worker.plan, worker.board, worker.upstreams.state, worker.upstreams.statuses)
    return Reply(body=body, content_type=CONTENT_TYPE_LATEST.encode())


def _within(request: InferenceRequest, context: int | None) -> InferenceRequest:
    """Engines refuse a max_tokens that fills the context alone; without one an answer may get as long as fits."""
    if not request.at_most or context is None or request.body.get("max_tokens", 0) < context:
        return request
    return replace(request, body={name: value for name, value in request.body.items() if name != "max_tokens"})


async def read_body(headers: Mapping[bytes, bytes], flight: Flight, limits: Limits) -> bytes:
    """The whole body. TooLargeError as soon as it is known to be over the limit: announced, or counted.

    RequestTimeoutError when the flight was stopped because nothing more of it came.
    """
    limit = limits.max_body_bytes
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit():
        raise InvalidRequestError(f"content-length must be a number, not {announced!r}.")
    if int(announced) > limit:
        raise TooLargeError(f"The body has {int(announced)} bytes; BERTH_MAX_BODY allows {limit}.", should_retry=False)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await _next_part(flight, limits, size)
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLargeError(f"The body has more than {limit} bytes: BERTH_MAX_BODY.", should_retry=False)
        if not message.get("more_body"):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


async def _next_part(flight: Flight, limits: Limits, size: int) -> Message:
    try:
        message = await flight.receive()
    except asyncio.CancelledError as exc:
        if flight.stopped is None:
            raise
        flight.resume()
        stall_s = limits.client_stall_timeout_s
        raise RequestTimeoutError(f"Nothing more of the body came for {stall_s:g} s, after {size} bytes.") from exc
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message
