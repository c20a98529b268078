"""What each request gets: an engine's page, an inference, or the controls of the simulation under /sim."""

import asyncio
import sys
import traceback

import orjson

from berth.sim import body_validation, sleep
from berth.sim.active_faults import set_from_json
from berth.sim.body_validation import InvalidError, RejectionError
from berth.sim.dialect import (
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
from berth.sim.faults import FAULTS, FaultError
from berth.sim.http.response_writer import Request, ResponseWriter
from berth.sim.inference import Inference, wait_forever

_CONTROLS = "/sim/faults"
_UNAUTHORIZED = Response(status=401, body=b'{"error":"Unauthorized"}', early=True)
_SERVER_ERROR = Response(
    status=500, body=b"Internal Server Error", content_type="text/plain; charset=utf-8", early=True
)
_EMPTY = Response(content_type=None)
_UNHEALTHY = Response(status=503, content_type=None)
_PROBE_GIVES_UP_S = 20.0  # after this a health page that waits for a token says no


class App:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = engine.dialect

    async def handle(self, request: Request, writer: ResponseWriter) -> None:
        """The boundary of a request: nothing but a cancellation leaves it."""
        try:
            await self._handle(request, writer)
        except CrashError as crash:
            sys.stderr.write(f"{crash}\n")
            sys.stderr.flush()
            self._engine.kill()
        except Exception:  # noqa: BLE001 - the boundary: logged, and the client is told
            traceback.print_exc()
            if not writer.begun:
                await writer.send(_SERVER_ERROR)
            writer.close()
        if self._engine.options.access_log:
            sys.stderr.write(f'INFO:     127.0.0.1:0 - "{request.method} {request.path} HTTP/1.1" {writer.status}\n')
            sys.stderr.flush()

    async def controls(self, request: Request, writer: ResponseWriter) -> None:
        """The admin port: the controls alone."""
        if request.path.startswith(_CONTROLS):
            await writer.send(self._control(request))
        else:
            await writer.send(NOT_FOUND)

    async def _handle(self, request: Request, writer: ResponseWriter) -> None:
        if request.path.startswith("/sim/"):
            await self.controls(request, writer)
            return
        if not self._authorised(request):
            await writer.send(_UNAUTHORIZED)
            return
        route, tail = self._route(request)
        if isinstance(route, Response):
            await writer.send(route)
        elif route in INFERENCE_ROUTES:
            await Inference(self._engine, writer).run(route, request)
        elif route in HEALTH_ROUTES:
            await writer.send(await self._health(route))
        elif route in SLEEP_ROUTES:
            await writer.send(await sleep.answer(self._engine, route))
        else:
            await writer.send(self._page(route, request, tail))

    def _authorised(self, request: Request) -> bool:
        key = self._engine.options.api_key
        if key is None or not self._dialect.needs_key(request.path) or request.method == "OPTIONS":
            return True
        return request.headers.get("authorization") == f"Bearer {key}"

    def _route(self, request: Request) -> tuple[Route | Response, str]:
        """What the path is for and the name at its end, or the page that says that it is for nothing."""
        routes, path = self._dialect.routes, request.path
        methods, tail = routes.get(path), ""
        if methods is None and path.startswith("/v1/models/"):
            methods, tail = routes.get("/v1/models/{model}"), path.removeprefix("/v1/models/")
        if methods is None:
            return self._nowhere(request), ""
        route = methods.get(request.method)
        if route is None:
            return detail(405, "Method Not Allowed", (("allow", ", ".join(methods)),)), ""
        return route, tail

    def _nowhere(self, request: Request) -> Response:
        """A trailing slash is sent on to the path without it."""
        shorter = request.path.rstrip("/")
        if request.path.endswith("/") and shorter in self._dialect.routes:
            location = f"http://{request.headers.get('host', 'localhost')}{shorter}"
            return Response(status=307, content_type=None, headers=(("location", location),))
        return NOT_FOUND

    async def _health(self, route: Route) -> Response:
        """Three kinds: pages that always say yes, pages that know the state, and pages that wait for a token."""
        engine = self._engine
        if engine.faults.value("unhealthy") is not None:
            return _UNHEALTHY
        if route in (Route.PING, Route.HEALTH_ROUTES):
            return _EMPTY
        if engine.draining or not engine.warm:
            return _UNHEALTHY
        if route is Route.HEALTH_GENERATE:
            return await self._generated()
        return _EMPTY

    async def _generated(self) -> Response:
        engine = self._engine
        try:
            async with asyncio.timeout(_PROBE_GIVES_UP_S if self._dialect.probe_s else None):
                if engine.faults.value("wedged") is not None:
                    await wait_forever()
                async with engine.slot():
                    await engine.clock().until(1)
                    await asyncio.sleep(self._dialect.probe_s)
        except TimeoutError:
            return _UNHEALTHY
        return _EMPTY

    def _page(self, route: Route, request: Request, tail: str) -> Response:
        try:
            if route is Route.ABORT:
                self._abort(request)
            call = Call(path=request.path, tail=tail, headers=request.headers, body=request.body)
            return self._dialect.respond(route, call, self._engine.stats())
        except InvalidError as problem:
            return self._dialect.invalid(problem, request.path)
        except RejectionError as problem:
            return self._dialect.rejected(problem)

    def _abort(self, request: Request) -> None:
        body = body_validation.parse_object(request.body)
        if body.get("abort_all"):
            self._engine.interrupt(Interrupt.ABORT)
        elif body.get("rid"):
            self._engine.interrupt(Interrupt.ABORT, str(body["rid"]))

    def _control(self, request: Request) -> Response:
        """GET lists the faults, POST switches them on and off, DELETE clears all, or the one that the path names."""
        faults = self._engine.faults
        if request.method not in ("GET", "POST", "DELETE"):
            return detail(405, "Method Not Allowed", (("allow", "GET, POST, DELETE"),))
        try:
            if request.method == "POST":
                set_from_json(faults, orjson.loads(request.body or b"null"))
            elif request.method == "DELETE":
                faults.clear(request.path.removeprefix(_CONTROLS).strip("/") or None)
        except (FaultError, orjson.JSONDecodeError) as error:
            return Response(status=400, body=orjson.dumps({"error": str(error)}))
        if request.method != "GET":
            self._engine.on_faults_changed()
        known = {name: kind.help for name, kind in FAULTS.items()}
        return Response(body=orjson.dumps({"on": faults.to_json(), "faults": known}))
