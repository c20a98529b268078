"""GET pages: health, ready, models, status, metrics."""

import time
from collections.abc import Callable
from urllib.parse import parse_qs

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from berth import __version__
from berth.apis.anthropic import models as anthropic_models
from berth.apis.tgi import endpoints
from berth.canonical import Operation
from berth.router.exchange.responses import Reply, json_reply, write
from berth.router.telemetry import status as status_document
from berth.router.telemetry.metrics import exposition
from berth.router.worker import Worker

Build = Callable[[Worker, Scope], Reply]


class Page:
    """GET (and HEAD) of what this worker knows by itself."""

    def __init__(self, worker: Worker, build: Build, *, needs_key: bool) -> None:
        self._worker = worker
        self._build = build
        self._needs_key = needs_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        headers = dict(scope["headers"])
        if self._needs_key:
            self._worker.auth.check(headers)
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
    return json_reply(endpoints.info(route.name, route.context, __version__))


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
