"""GET pages: health, readiness, models, status, metrics."""

import time
from collections.abc import Callable
from urllib.parse import parse_qs

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from berth import __version__
from berth.apis import model_header
from berth.apis.anthropic import models as anthropic_models
from berth.apis.tgi import endpoints
from berth.canonical import Operation
from berth.plan.keys import OPEN
from berth.router.exchange.responses import Reply, json_reply, write
from berth.router.telemetry import plan_document
from berth.router.telemetry import status as status_document
from berth.router.telemetry.engine_metrics import vllm_metrics
from berth.router.telemetry.key_metrics import key_metrics
from berth.router.telemetry.metrics import exposition, text_of
from berth.router.telemetry.shadow_metrics import shadow_metrics
from berth.router.telemetry.visible import visible
from berth.router.worker import Worker

Build = Callable[[Worker, Scope], Reply]  # the scope has the client's `key`
SAFE_METHODS = ("GET", "HEAD")


class Page:
    """GET (and HEAD) of a document that needs no engine."""

    def __init__(self, worker: Worker, build: Build, *, needs_key: bool) -> None:
        self._worker = worker
        self._build = build
        self._needs_key = needs_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        changes = scope["method"] not in SAFE_METHODS
        check = self._worker.auth.check
        scope["key"] = check(headers, scope.get("client"), changes=changes) if self._needs_key else OPEN
        self._worker.upstreams.poll()  # so that all workers say the same
        reply = self._build(self._worker, scope)
        extra = [(b"x-request-id", self._worker.request_ids.of(headers).encode())]
        await write(send, reply, extra, head_only=scope["method"] == "HEAD")


def health(worker: Worker, scope: Scope) -> Reply:
    """200 as long as the router responds; /ready reports whether models are ready."""
    return json_reply(status_document.health(worker.plan, worker.upstreams.state, now=time.time()))


def model_health(worker: Worker, scope: Scope) -> Reply:
    """The same for a model of this server. ModelNotFoundError for an unknown one."""
    worker.catalog.resolve(scope["path_params"]["name"], key=scope["key"])
    return health(worker, scope)


def models(worker: Worker, scope: Scope) -> Reply:
    listing = worker.catalog.listing(scope["key"])
    if anthropic_models.is_anthropic(dict(scope["headers"])):
        listing = anthropic_models.model_list(listing["data"])
    return json_reply(listing)


def model(worker: Worker, scope: Scope) -> Reply:
    card = worker.catalog.card(scope["path_params"]["name"], scope["key"])
    if anthropic_models.is_anthropic(dict(scope["headers"])):
        card = anthropic_models.model_info(card)
    return json_reply(card)


def info(worker: Worker, scope: Scope) -> Reply:
    """TGI's, of the model in the path, in `?model=` or in the header, or of the only one that generates."""
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("model", [""])[-1]
    name = scope["path_params"].get("name") or asked or model_header.model_name({}, dict(scope["headers"]))
    route = worker.catalog.resolve(name, Operation.COMPLETION, scope["key"])
    return json_reply(endpoints.info(route.name, route.context, __version__))


def ready(worker: Worker, scope: Scope) -> Reply:
    """200 when every model is ready, or the one of `?model=`; otherwise 503. ModelNotFoundError for an unknown one."""
    names = parse_qs(scope["query_string"].decode("latin-1")).get("model")
    name = worker.catalog.resolve(names[-1]).name if names else None
    upstreams, now = worker.upstreams, time.time()
    statuses = status_document.current(upstreams.statuses, upstreams.state, upstreams.marked_down(), now=now)
    state = worker.upstreams.state
    orders = state.orders if state is not None else status_document.NO_ORDERS
    is_ready, document = status_document.readiness(worker.plan, statuses, name, orders)
    document["control"] = status_document.control(upstreams.state, now=now)
    return json_reply(document, status=200 if is_ready else 503)


def status(worker: Worker, scope: Scope) -> Reply:
    return json_reply(visible(worker.plan, scope["key"]).status(worker.status()))


def plan(worker: Worker, scope: Scope) -> Reply:
    return json_reply(visible(worker.plan, scope["key"]).plan(plan_document.document(worker.plan)))


def metrics(worker: Worker, scope: Scope) -> Reply:
    worker.looked_at = int(time.monotonic())
    state, statuses = worker.upstreams.state, worker.upstreams.statuses
    oldest_s = worker.journal.oldest_s()
    waits = any(worker.meter.queue_length(route.name) for route in worker.plan.models)
    queued_s = worker.journal.queued_s() if waits else {}
    found = worker.notices(time.time())
    keys = key_metrics(worker.plan, worker.keys.current, worker.meter.keys)
    clients = (*keys, *shadow_metrics(worker.shadows.totals()))
    latest = worker.window.latest(worker.board.sums(worker.window.span))
    body = exposition(
        worker.plan,
        worker.board,
        state,
        statuses,
        clients,
        oldest_request_s=oldest_s,
        queued_s=queued_s,
        found=found,
        latest=latest,
    )
    return Reply(body=body, content_type=CONTENT_TYPE_LATEST.encode())


def metrics_as_vllm(worker: Worker, scope: Scope) -> Reply:
    """Of all models, or of the one of `?model=`. ModelNotFoundError for an unknown one."""
    worker.looked_at = int(time.monotonic())
    names = parse_qs(scope["query_string"].decode("latin-1")).get("model")
    routes = [worker.catalog.resolve(names[-1])] if names else worker.plan.models
    body = text_of(vllm_metrics(routes, worker.upstreams.statuses, worker.traffic()))
    return Reply(body=body, content_type=CONTENT_TYPE_LATEST.encode())
