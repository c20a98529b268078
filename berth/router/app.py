"""The ASGI application of a router worker: its paths, and the errors of those that are not inference."""

import difflib
import re
from collections.abc import Awaitable
from itertools import chain

from starlette.exceptions import HTTPException
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from berth.apis.anthropic.models import is_anthropic
from berth.apis.ollama.response import OllamaEndpoint
from berth.errors import ApiError, MethodNotAllowedError, NotFoundError, NotServedError, UpgradeRequiredError, shortened
from berth.log import log
from berth.router.exchange.headers import request_id_headers
from berth.router.exchange.responses import CLOSE, Headers, error_reply, with_headers, write
from berth.router.exchange.web_pages import not_allowed
from berth.router.server import (
    admin,
    bench,
    captures,
    history,
    ollama_pages,
    page,
    pages,
    stored_responses,
    support,
    unserved,
)
from berth.router.server.api_routes import format_for, formats
from berth.router.server.events import Events
from berth.router.server.inference import PREFIX, Inference, NamedModel, OfModel, Prefixed
from berth.router.server.keep_alive import OllamaInference
from berth.router.server.own_usage import OwnUsage
from berth.router.server.pages import Build, Page
from berth.router.worker import Worker

DOCUMENTS: dict[str, tuple[Build, bool]] = {  # path -> its page, and whether it needs a key
    "/health": (pages.health, False),
    "/ready": (pages.ready, False),
    "/metrics": (pages.metrics, False),
    "/metrics/vllm": (pages.metrics_as_vllm, False),
    "/status": (pages.status, True),
    "/plan": (pages.plan, True),
    "/info": (pages.info, True),
    "/models/{name:path}/info": (pages.info, True),
    "/models/{name:path}/health": (pages.model_health, True),
    "/v1/models": (pages.models, True),
    "/v1/models/{name:path}": (pages.model, True),
}

OF_MODEL = "/models/{name:path}"  # the URL of one model, as Hugging Face's clients have it

_SLASHES = re.compile("//+")
_PATHS_SHOWN = 3
_CLIENT_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")  # those that official clients send
_WHERE = "The APIs of OpenAI and Anthropic are under /v1, Ollama's is under /api."


_OPERATORS = "/admin"  # its paths are not suggested to clients


class App:
    """Starlette's router without its middlewares, which would wrap every `send` and so cost something per token."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._formats = formats(worker.responses, worker.plan.limits.max_body_bytes)
        self._inference = {
            path: (OllamaInference if isinstance(api, OllamaEndpoint) else Inference)(worker, api)
            for path, api in self._formats.items()
        }
        posts = [Route(path, inference, methods=["POST"]) for path, inference in self._inference.items()]
        named = {path: api for path, api in self._formats.items() if path != "/"}
        posts += [
            Route(OF_MODEL + path, OfModel(Inference(worker, NamedModel(api))), methods=["POST"])
            for path, api in named.items()
        ]
        posts.append(Route(OF_MODEL, OfModel(self._inference["/"]), methods=["POST"]))
        gets = [
            Route(path, Page(worker, build, needs_key=needs_key), methods=["GET"])
            for path, (build, needs_key) in DOCUMENTS.items()
        ]
        routes = [*posts, *gets, *ollama_pages.routes(worker), *stored_responses.routes(worker)]
        routes += [Route("/usage", OwnUsage(worker), methods=["GET"])]
        routes += [Route("/events", Events(worker), methods=["GET"]), *admin.routes(worker), *page.routes(worker)]
        routes += captures.routes(worker) + history.routes(worker) + support.routes(worker) + bench.routes(worker)
        self._routes = routes
        # POST of these paths needs no router
        self._direct: dict[str, ASGIApp] = {**self._inference}
        for prefix in worker.rules.prefixes if worker.rules is not None else ():
            self._direct |= {prefix + path: Prefixed(prefix, direct) for path, direct in self._inference.items()}
        self._router = Router(routes, redirect_slashes=False, lifespan=lambda _app: worker.running())

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._router(scope, receive, send)
        if self._worker.leaving or self._worker.connections.full:
            send = with_headers(send, [CLOSE])
        for name, value in scope["headers"]:
            if (
                name == b"origin"
                and (b"host", value.partition(b"://")[2]) not in scope["headers"]  # not Berth's own page
                and self._worker.pages.allows(value)
            ):
                send = with_headers(send, self._worker.pages.response_headers(value))
        if scope["method"] == "POST" and (direct := self._direct.get(scope["path"])):
            return direct(scope, receive, send)
        return self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever a POST of a client API is not."""
        scope["app"] = self  # Starlette then raises for unknown paths and methods instead of a response in plain text
        scope["path"] = plain_path(scope["path"])
        if self._worker.rules is not None:
            scope[PREFIX], scope["path"] = self._worker.rules.split(scope["path"])
        try:
            await self._route(scope, receive, send)
        except HTTPException as exc:
            allowed = [(name.encode(), value.encode()) for name, value in (exc.headers or {}).items()]
            await self._fail(scope, send, self._not_routed(scope, exc), allowed)
        except ApiError as error:
            await self._fail(scope, send, error)
        except Exception:  # noqa: BLE001 - the boundary of a request: logged, and the client gets a 500
            path = shortened(scope["path"])
            log.exception("internal error", path=path)
            await self._fail(scope, send, ApiError(f"Internal error of Berth on {path!r}. See Berth's log."))

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            await self._options(scope, send)
        elif any(name == b"upgrade" and value.lower() == b"websocket" for name, value in scope["headers"]):
            raise UpgradeRequiredError(f"{shortened(scope['path'])!r} has no WebSocket. Send HTTP requests.")
        else:
            await self._router(scope, receive, send)

    async def _options(self, scope: Scope, send: Send) -> None:
        """The methods of a path, and what a page may send there; ForbiddenError for a page that is not allowed. Pages
        do not learn here that a path is unknown: they can read the 404 of their request.
        """
        requested = dict(scope["headers"])
        found = [route.methods or () for route in self._routes if route.matches(scope)[0] is not Match.NONE]
        methods = ", ".join(sorted({"OPTIONS", *chain.from_iterable(found)}))
        headers = [(b"allow", methods.encode()), (b"x-request-id", self._worker.request_ids.of(requested).encode())]
        if b"access-control-request-method" in requested:
            origin = requested.get(b"origin", b"")
            if not self._worker.pages.allows(origin):
                raise not_allowed(origin)
            headers += self._worker.pages.preflight_headers(requested)
        elif not found and scope["path"] != "*":
            raise self._unknown(scope)
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _fail(self, scope: Scope, send: Send, error: ApiError, extra: Headers | None = None) -> None:
        requested = dict(scope["headers"])
        path = "/v1/messages" if is_anthropic(requested) else scope["path"]  # its clients request /v1/models too
        api = format_for(path, self._formats)
        headers = [*(extra or ()), *request_id_headers(api, self._worker.request_ids.of(requested))]
        await write(send, error_reply(api, error), headers, head_only=scope["method"] == "HEAD")

    def _not_routed(self, scope: Scope, exc: HTTPException) -> ApiError:
        other_method = exc.status_code == MethodNotAllowedError.status
        instead = unserved.advice(scope["path"])
        if instead and (not other_method or scope["method"] in _CLIENT_METHODS):
            return NotServedError(f"{_requested(scope)}: Berth does not serve it. {instead}", should_retry=False)
        if other_method:
            allowed = ", ".join(sorted((exc.headers or {}).get("Allow", "").split(", ")))
            return MethodNotAllowedError(f"{_requested(scope)}: this path accepts {allowed}.")
        return self._unknown(scope)

    def _unknown(self, scope: Scope) -> NotFoundError:
        paths = [route.path for route in self._routes if not route.path.startswith(_OPERATORS)]
        near = difflib.get_close_matches(scope["path"], paths, n=_PATHS_SHOWN, cutoff=0.5)
        guess = f" Similar paths: {', '.join(near)}." if near else ""
        return NotFoundError(f"{_requested(scope)}: unknown path.{guess} {_WHERE}")


def _requested(scope: Scope) -> str:
    return f"{shortened(scope['method'])} {shortened(scope['path'])}"


def plain_path(path: str) -> str:
    """Without the slashes that clients add when their base URL ends in one."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.rstrip("/") or "/" if path.endswith("/") else path
