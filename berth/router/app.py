"""The ASGI application of a router worker: its paths, and the errors of those that are not inference."""

import difflib
import re

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from berth.apis.anthropic.models import is_anthropic
from berth.errors import ApiError, MethodNotAllowedError, NotFoundError, NotServedError
from berth.log import log
from berth.router.exchange.responses import Headers, error_reply, request_id_headers, write
from berth.router.handover import closing_connections
from berth.router.server import ollama_pages, pages, stored_responses, unserved
from berth.router.server.api_routes import format_for, formats
from berth.router.server.inference import Inference, NamedModel, OfModel
from berth.router.server.pages import Build, Page
from berth.router.worker import Worker

DOCUMENTS: dict[str, tuple[Build, bool]] = {  # path -> its page, and whether it needs a key
    "/health": (pages.health, False),
    "/ready": (pages.ready, False),
    "/metrics": (pages.metrics, False),
    "/status": (pages.status, True),
    "/info": (pages.info, True),
    "/models/{name:path}/info": (pages.info, True),
    "/models/{name:path}/health": (pages.model_health, True),
    "/v1/models": (pages.models, True),
    "/v1/models/{name:path}": (pages.model, True),
}

OF_MODEL = "/models/{name:path}"  # the URL of one model, as Hugging Face's clients have it

_SLASHES = re.compile("//+")
_PATHS_SHOWN = 3
_WHERE = "The APIs of OpenAI and Anthropic are under /v1, Ollama's is under /api."


class App:
    """Starlette's router without its middlewares, which would wrap every `send` and so cost something per token."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._formats = formats(worker.responses)
        self._inference = {path: Inference(worker, api) for path, api in self._formats.items()}
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
        self._paths = [route.path for route in routes]
        self._router = Router(routes, redirect_slashes=False, lifespan=lambda _app: worker.running())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        if self._worker.leaving:
            send = closing_connections(send)
        if scope["method"] == "POST" and (direct := self._inference.get(scope["path"])):
            await direct(scope, receive, send)
            return
        scope["app"] = self  # Starlette then raises for unknown paths and methods instead of a response in plain text
        scope["path"] = plain_path(scope["path"])
        try:
            await self._router(scope, receive, send)
        except HTTPException as exc:
            allowed = [(name.encode(), value.encode()) for name, value in (exc.headers or {}).items()]
            await self._fail(scope, send, self._not_routed(scope, exc), allowed)
        except ApiError as error:
            await self._fail(scope, send, error)
        except Exception:  # noqa: BLE001 - the boundary of a request: logged, and the client gets a 500
            log.exception("internal error", path=scope["path"])
            await self._fail(scope, send, ApiError(f"Internal error of Berth on {scope['path']!r}. See Berth's log."))

    async def _fail(self, scope: Scope, send: Send, error: ApiError, extra: Headers | None = None) -> None:
        requested = dict(scope["headers"])
        path = "/v1/messages" if is_anthropic(requested) else scope["path"]  # its clients request /v1/models too
        api = format_for(path, self._formats)
        headers = [*(extra or ()), *request_id_headers(api, self._worker.request_ids.of(requested))]
        await write(send, error_reply(api, error), headers, head_only=scope["method"] == "HEAD")

    def _not_routed(self, scope: Scope, exc: HTTPException) -> ApiError:
        requested = f"{scope['method']} {scope['path']}"
        if instead := unserved.advice(scope["path"]):
            return NotServedError(f"{requested}: Berth does not serve it. {instead}", should_retry=False)
        if exc.status_code == MethodNotAllowedError.status:
            allowed = ", ".join(sorted((exc.headers or {}).get("Allow", "").split(", ")))
            return MethodNotAllowedError(f"{requested}: this path accepts {allowed}.")
        near = difflib.get_close_matches(scope["path"], self._paths, n=_PATHS_SHOWN, cutoff=0.5)
        guess = f" Similar paths: {', '.join(near)}." if near else ""
        return NotFoundError(f"{requested}: unknown path.{guess} {_WHERE}")


def plain_path(path: str) -> str:
    """Without the slashes that clients add when their base URL ends in one."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.rstrip("/") or "/" if path.endswith("/") else path
