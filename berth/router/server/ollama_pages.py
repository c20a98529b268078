"""Ollama's API besides inference: the models, their capabilities, the loaded models, the version.

The operator sets the models of a server: requests that add or remove one get a 501.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from berth import json_text
from berth.apis.base import NDJSON
from berth.apis.json_weight import UNWEIGHED_BYTES
from berth.apis.ollama.fields import is_streamed
from berth.apis.openai.fields import BOOLEAN, TEXT, check_fields, read_object
from berth.canonical import Json
from berth.errors import TooLargeError
from berth.plan import EngineName, ModelRoute, Plan, Replica, Task
from berth.router.exchange.auth import may_use
from berth.router.exchange.inflight import read_body
from berth.router.exchange.responses import Reply, json_reply, write
from berth.router.server.pages import Build, Page
from berth.router.worker import Worker
from berth.state import ReplicaStatus

Exchanged = Callable[[Worker, Json], Reply]

API_VERSION: Final = "0.13.0"  # of Ollama: clients reject servers of old versions
ARCHITECTURE: Final = "berth"  # the prefix of the names in model_info: the plan does not have the real one
_EXPIRY_S: Final = 36_525 * 86_400  # of models that stay loaded; clients show a century as "forever"
_TOOL_PARSERS: Final = frozenset({"--tool-call-parser", "--tool_parser"})
_REASONING_PARSERS: Final = frozenset({"--reasoning-parser", "--reasoning_parser"})
_RULES: Final = {"model": TEXT, "name": TEXT, "stream": BOOLEAN}


class Exchange:
    """POST with a JSON body that names a model; no engine is needed for the response."""

    def __init__(self, worker: Worker, build: Exchanged) -> None:
        self._worker = worker
        self._build = build

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        key = self._worker.auth.check(headers, scope.get("client"))
        inflight = self._worker.inflight
        request = inflight.begin(receive, send, scope.get("client"))
        try:
            body = await read_body(headers, request, self._worker.plan.limits, inflight.memory)
        finally:
            inflight.end(request)
        if len(body) > UNWEIGHED_BYTES:
            raise TooLargeError(f"The request has {len(body)} bytes: more than a model's name needs.")
        document = read_object(body)
        document["model"] = document.get("model") or document.get("name")  # the old name of the field
        check_fields({field: document.get(field) for field in _RULES}, _RULES, required=("model",))
        self._worker.catalog.resolve(document["model"], key=key)
        reply = self._build(self._worker, document)
        await write(send, reply, [(b"x-request-id", self._worker.request_ids.of(headers).encode())])


def running(worker: Worker, scope: Scope) -> Reply:
    return Reply(body=b"Ollama is running", content_type=b"text/plain; charset=utf-8")


def version(worker: Worker, scope: Scope) -> Reply:
    return json_reply({"version": API_VERSION})


def tags(worker: Worker, scope: Scope) -> Reply:
    """All models that the key may use by all their names, loaded or not."""
    plan = worker.plan
    models = [
        {**_card(plan, route, name), "modified_at": _time(plan.created)}
        for route in plan.routes
        if may_use(scope["key"], route)
        for name in (route.name, *route.aliases)
    ]
    return json_reply({"models": models})


def loaded(worker: Worker, scope: Scope) -> Reply:
    """The models that have a ready replica."""
    plan, statuses, state = worker.plan, worker.upstreams.statuses, worker.upstreams.state
    expires = state.expires if state is not None else {}
    rows = []
    for route in plan.routes:
        serving = [name for name in route.replicas if statuses[name].status is ReplicaStatus.READY]
        if serving and may_use(scope["key"], route):
            replica = plan.replica(serving[0])
            total = _bytes(replica, "total_bytes")
            rows.append(
                {
                    **_card(plan, route, route.name),
                    "size": total,
                    "size_vram": total if replica.gpus else 0,
                    "expires_at": _time(int(expires.get(route.base or route.name, plan.created + _EXPIRY_S))),
                    "context_length": replica.context or _context(plan, route) or 0,
                }
            )
    return json_reply({"models": rows})


def show(worker: Worker, document: Json) -> Reply:
    """ModelNotFoundError for an unknown one."""
    plan, route = worker.plan, worker.catalog.resolve(document["model"])
    able = capabilities(plan, route)
    context = _context(plan, route)
    info: Json = {"general.architecture": ARCHITECTURE, "general.basename": route.source, "general.type": "model"}
    if context:
        info[f"{ARCHITECTURE}.context_length"] = context
    return json_reply(
        {
            "modelfile": f"# Served by Berth\nFROM {route.source}\n",
            "parameters": f"num_ctx {context}" if context else "",
            "template": f"{{{{/* the model's own; {', '.join(able)} */}}}}",
            "details": _details(plan, route),
            "model_info": info,
            "capabilities": able,
            "modified_at": _time(plan.created),
        }
    )


def pull(worker: Worker, document: Json) -> Reply:
    """Succeeds for a model of the plan, which Berth has downloaded or will. ModelNotFoundError for any other."""
    worker.catalog.resolve(document["model"])
    if not is_streamed(document):
        return json_reply({"status": "success"})
    lines = [json_text.dumps({"status": status}) + b"\n" for status in ("pulling manifest", "success")]
    return Reply(body=b"".join(lines), content_type=NDJSON)


def fixed(worker: Worker, scope: Scope) -> Reply:
    """Requests that add, change or remove a model."""
    requested = f"{scope['method']} {scope['path']}"
    text = f"{requested}: not supported. The operator of this server sets its models with BERTH_MODELS."
    return json_reply({"error": text}, status=501)


def capabilities(plan: Plan, route: ModelRoute) -> list[str]:
    """The capabilities of at least one replica: requests are sent to one that has them."""
    if route.task is not Task.GENERATE:
        return ["embedding"]
    replicas = [plan.replica(name) for name in route.replicas]
    found = {"tools": any(map(_takes_tools, replicas)), "thinking": any(map(_thinks, replicas))}
    return ["completion", *(name for name, holds in found.items() if holds)]


def _takes_tools(replica: Replica) -> bool:
    """True for an attached engine, of which nothing is known: it rejects tools itself if it has none."""
    if replica.launch is None:
        return True
    if replica.engine is EngineName.SIM:
        return "--no-tools" not in replica.launch.argv
    return _has_option(replica, _TOOL_PARSERS)


def _thinks(replica: Replica) -> bool:
    if replica.launch is None:
        return False
    if replica.engine is EngineName.SIM:
        return "off" not in replica.launch.argv
    in_file = any("reasoning_parser" in text for text in replica.launch.files.values())
    return in_file or _has_option(replica, _REASONING_PARSERS)


def _has_option(replica: Replica, options: frozenset[str]) -> bool:
    words = replica.launch.argv if replica.launch else ()
    return any(word.partition("=")[0] in options for word in words)


def _card(plan: Plan, route: ModelRoute, name: str) -> Json:
    replica = plan.replica(route.replicas[0])
    return {
        "name": name,
        "model": name,
        "size": _bytes(replica, "weights_bytes"),
        # of the name too: clients take names of one digest for one model
        "digest": hashlib.sha256(f"{name}\n{route.source}\n{route.revision or ''}".encode()).hexdigest(),
        "details": _details(plan, route),
    }


def _details(plan: Plan, route: ModelRoute) -> Json:
    """All fields of Ollama's; those that are not in the plan are empty."""
    started = any(plan.replica(name).launch for name in route.replicas)
    return {
        "parent_model": "",
        "format": "safetensors" if started else "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }


def _bytes(replica: Replica, field: str) -> int:
    """On all its GPUs together; 0 if it was not estimated."""
    return getattr(replica.memory, field) * max(1, len(replica.gpus)) if replica.memory else 0


def _context(plan: Plan, route: ModelRoute) -> int | None:
    return route.context or next((found for name in route.replicas if (found := plan.replica(name).context)), None)


def _time(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


DOCUMENTS: Final[dict[str, tuple[Build, bool]]] = {  # path -> its page, and whether it needs a key
    "/": (running, False),
    "/api/version": (version, False),
    "/api/tags": (tags, True),
    "/api/ps": (loaded, True),
}
EXCHANGES: Final[dict[str, Exchanged]] = {"/api/show": show, "/api/pull": pull}  # POST of these paths
FIXED: Final = {"/api/copy": "POST", "/api/create": "POST", "/api/delete": "DELETE", "/api/push": "POST"}


def routes(worker: Worker) -> list[Route]:
    """Of all paths here."""
    gets = [
        Route(path, Page(worker, build, needs_key=needs_key), methods=["GET"])
        for path, (build, needs_key) in DOCUMENTS.items()
    ]
    posts = [Route(path, Exchange(worker, build), methods=["POST"]) for path, build in EXCHANGES.items()]
    rejected = [Route(path, Page(worker, fixed, needs_key=True), methods=[method]) for path, method in FIXED.items()]
    return [*gets, *posts, *rejected]
