"""The ASGI application of a router worker: paths, and the boundary where every error gets the shape of its API."""

import difflib
import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from berth.apis.anthropic.models import is_anthropic
from berth.errors import ApiError, MethodNotAllowedError, NotFoundError
from berth.log import log
from berth.router.exchange.request import request_id_headers
from berth.router.exchange.responses import Reply, error_headers, write
from berth.router.handover import telling_to_close
from berth.router.server import ollama_pages, pages, stored_responses
from berth.router.server.api_routes import format_for, formats
from berth.router.server.inference import Inference, OfModel
from berth.router.server.pages import Build, Page
from berth.router.worker import Worker

DOCUMENTS: dict[str, tuple[Build, bool]] = {  # path -> what it shows, and whether it needs a key
    "/health": (pages.health, False),
    "/ready": (pages.ready, False),
    "/metrics": (pages.metrics, False),
    "/status": (pages.status, True),
    "/info": (pages.info, True),
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
        self._request_ids = worker.request_ids
        self._formats = formats(worker.responses)
        self._inference = {path: Inference(worker, api) for path, api in self._formats.items()}
        posts = [Route(path, inference, methods=["POST"]) for path, inference in self._inference.items()]
        posts.append(Route(OF_MODEL, OfModel(self._inference["/"]), methods=["POST"]))
        gets = [
            Route(path, Page(worker, build, needs_key=needs_key), methods=["GET"])
            for path, (build, needs_key) in DOCUMENTS.items()
        ]
        routes = [*posts, *gets, *ollama_pages.routes(worker), *stored_responses.routes(worker)]
        self._paths = [route.path for route in routes]
        self._router = Router(routes, redirect_slashes=False, lifespan=lambda _app: worker.running())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (direct := self._inference.get(scope["path"])):
            await self._within(direct, scope, receive, send)
            return
        scope["app"] = self  # Starlette then raises for unknown paths and methods instead of answering in plain text
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        scope["path"] = plain_path(scope["path"])
        await self._within(self._router, scope, receive, send)

    async def _within(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """The boundary of a request: what goes wrong within is told to the client."""
        if self._worker.leaving:
            send = telling_to_close(send)
        try:
            await app(scope, receive, send)
        except HTTPException as exc:
            await self._refuse(scope, send, self._not_routed(scope, exc), exc.headers or {})
        except ApiError as error:
            await self._refuse(scope, send, error, {})
        except Exception:  # noqa: BLE001 - the boundary of a request: logged, and the client is told
            request_id = self._request_ids.of(dict(scope["headers"]))
            log.exception("the router failed", request=request_id, path=scope["path"])
            await self._refuse(scope, send, ApiError(f"Berth failed on request {request_id!r}: its log says more."), {})

    async def _refuse(self, scope: Scope, send: Send, error: ApiError, headers: Mapping[str, str]) -> None:
        asked = dict(scope["headers"])
        path = "/v1/messages" if is_anthropic(asked) else scope["path"]  # they ask /v1/models too
        api = format_for(path, self._formats)
        reply = Reply(status=api.status(error), body=api.error(error), headers={**headers, **error_headers(error)})
        extra = request_id_headers(api, self._request_ids.of(asked))
        await write(send, reply, extra, head_only=scope["method"] == "HEAD")

    def _not_routed(self, scope: Scope, exc: HTTPException) -> ApiError:
        asked = f"{scope['method']} {scope['path']}"
        if exc.status_code == MethodNotAllowedError.status:
            allowed = ", ".join(sorted((exc.headers or {}).get("Allow", "").split(", ")))
            return MethodNotAllowedError(f"{asked}: this path takes {allowed}.")
        near = difflib.get_close_matches(scope["path"], self._paths, n=_PATHS_SHOWN, cutoff=0.5)
        guess = f" Near it: {', '.join(near)}." if near else ""
        return NotFoundError(f"{asked}: there is no such path.{guess} {_WHERE}")


def plain_path(path: str) -> str:
    """Without the slashes that clients add when their base URL ends in one."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.rstrip("/") or "/" if path.endswith("/") else path
