"""Dispatches each request: to a page of the engine, to inference, or to the fault controls under /sim."""

import asyncio
import sys
import traceback

import orjson

from berth.sim import adapters, body_validation, sleep
from berth.sim.body_validation import InvalidError, RejectionError
from berth.sim.dialect import (
    ADAPTER_ROUTES,
    HEALTH_ROUTES,
    INFERENCE_ROUTES,
    NOT_FOUND,
    SLEEP_ROUTES,
    Call,
    CrashError,
    Response,
    Route,
    detail,
)
from berth.sim.engine import Engine, Interrupt
from berth.sim.faults.active import set_from_json
from berth.sim.faults.table import FAULTS, FaultError
from berth.sim.http.response_writer import Request, ResponseWriter
from berth.sim.inference import Inference, wait_forever

_CONTROLS = "/sim/faults"
_UNAUTHORIZED = Response(status=401, body=b'{"error":"Unauthorized"}', early=True)
_SERVER_ERROR = Response(
    status=500, body=b"Internal Server Error", content_type="text/plain; charset=utf-8", early=True
)
_EMPTY = Response(content_type=None)
_UNHEALTHY = Response(status=503, content_type=None)
_HEALTH_TIMEOUT_S = 20.0  # of a health page that generates a token


class App:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = engine.dialect

    async def handle(self, request: Request, writer: ResponseWriter) -> None:
        """The boundary of a request: only a cancellation leaves it."""
        try:
            await self._dispatch(request, writer)
        except CrashError as crash:
            sys.stderr.write(f"{crash}\n")
            sys.stderr.flush()
            self._engine.kill()
        except Exception:  # noqa: BLE001 - the boundary: logged, and the client gets an error
            traceback.print_exc()
            if not writer.begun:
                await writer.send(_SERVER_ERROR)
            writer.close()
        if self._engine.options.access_log:
            sys.stderr.write(f'INFO:     127.0.0.1:0 - "{request.method} {request.path} HTTP/1.1" {writer.status}\n')
            sys.stderr.flush()

    async def handle_control(self, request: Request, writer: ResponseWriter) -> None:
        """Lists, sets and clears faults: GET, POST, and DELETE of all or of the one that the path names."""
        if not request.path.startswith(_CONTROLS):
            await writer.send(NOT_FOUND)
            return
        if request.method not in ("GET", "POST", "DELETE"):
            await writer.send(detail(405, "Method Not Allowed", (("allow", "GET, POST, DELETE"),)))
            return
        faults = self._engine.faults
        try:
            if request.method == "POST":
                set_from_json(faults, orjson.loads(request.body or b"null"))
            elif request.method == "DELETE":
                faults.clear(request.path.removeprefix(_CONTROLS).strip("/") or None)
        except (FaultError, orjson.JSONDecodeError) as error:
            await writer.send(Response(status=400, body=orjson.dumps({"error": str(error)})))
            return
        if request.method != "GET":
            self._engine.on_faults_changed()
        known = {name: fault.help for name, fault in FAULTS.items()}
        await writer.send(Response(body=orjson.dumps({"on": faults.to_json(), "faults": known})))

    async def _dispatch(self, request: Request, writer: ResponseWriter) -> None:
        if request.path.startswith("/sim/"):
            await self.handle_control(request, writer)
            return
        key = self._engine.options.api_key
        is_protected = key is not None and self._dialect.needs_key(request.path) and request.method != "OPTIONS"
        if is_protected and request.headers.get("authorization") != f"Bearer {key}":
            await writer.send(_UNAUTHORIZED)
            return
        route, model = self._route(request)
        if isinstance(route, Response):
            await writer.send(route)
        elif route in INFERENCE_ROUTES:
            await Inference(self._engine, writer).run(route, request)
        elif route in HEALTH_ROUTES:
            await writer.send(await self._health(route))
        elif route in SLEEP_ROUTES:
            await writer.send(await sleep.respond(self._engine, route, request))
        elif route in ADAPTER_ROUTES:
            await writer.send(adapters.respond(self._engine.options, route, request.body))
        else:
            await writer.send(self._page(route, request, model))

    def _route(self, request: Request) -> tuple[Route | Response, str]:
        """The route of the path and the model name at its end, or the error. A trailing slash is redirected."""
        routes, path = self._dialect.routes, request.path
        methods, model = routes.get(path), ""
        if methods is None and path.startswith("/v1/models/"):
            methods, model = routes.get("/v1/models/{model}"), path.removeprefix("/v1/models/")
        if methods is not None:
            route = methods.get(request.method)
            if route is not None:
                return route, model
            return detail(405, "Method Not Allowed", (("allow", ", ".join(methods)),)), ""
        shorter = path.rstrip("/")
        if not path.endswith("/") or shorter not in routes:
            return NOT_FOUND, ""
        location = f"http://{request.headers.get('host', 'localhost')}{shorter}"
        return Response(status=307, content_type=None, headers=(("location", location),)), ""

    async def _health(self, route: Route) -> Response:
        """Three kinds: pages that always succeed, pages that know the state, and pages that generate a token."""
        engine = self._engine
        if engine.faults.value("unhealthy") is not None:
            return _UNHEALTHY
        if route in (Route.PING, Route.HEALTH):
            return _EMPTY
        if engine.draining or not engine.warm:
            return _UNHEALTHY
        if route is not Route.HEALTH_GENERATE:
            return _EMPTY
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S if self._dialect.probe_s else None):
                if engine.faults.value("wedged") is not None:
                    await wait_forever()
                async with engine.slot():
                    await engine.clock().until(1)
                    await asyncio.sleep(self._dialect.probe_s)
        except TimeoutError:
            return _UNHEALTHY
        return _EMPTY

    def _page(self, route: Route, request: Request, model: str) -> Response:
        try:
            if route is Route.ABORT:
                body = body_validation.parse_object(request.body)
                if body.get("abort_all"):
                    self._engine.interrupt(Interrupt.ABORT)
                elif body.get("rid"):
                    self._engine.interrupt(Interrupt.ABORT, str(body["rid"]))
            call = Call(path=request.path, model=model, headers=request.headers, body=request.body)
            return self._dialect.respond(route, call, self._engine.stats())
        except InvalidError as problem:
            return self._dialect.invalid(problem, request.path)
        except RejectionError as problem:
            return self._dialect.rejected(problem)
