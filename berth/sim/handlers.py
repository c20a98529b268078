"""What each request gets: an engine's page, an inference, or the controls of the simulation under /sim."""

import asyncio
import sys
import traceback

import orjson

from berth.sim import body_validation, sleep
from berth.sim.active_faults import set_from_json
from berth.sim.body_validation import InvalidError, RefusalError
from berth.sim.dialect import HEALTH, INFERENCE, NOT_FOUND, SLUMBER, Call, CrashError, Page, Route, detail
from berth.sim.engine import Engine, Interrupt
from berth.sim.faults import FAULTS, FaultError
from berth.sim.http.response_writer import Out, Request
from berth.sim.inference import Inference, forever

_CONTROLS = "/sim/faults"
_UNAUTHORIZED = Page(status=401, body=b'{"error":"Unauthorized"}', early=True)
_SERVER_ERROR = Page(status=500, body=b"Internal Server Error", content_type="text/plain; charset=utf-8", early=True)
_EMPTY = Page(content_type=None)
_UNHEALTHY = Page(status=503, content_type=None)
_PROBE_GIVES_UP_S = 20.0  # after this a health page that waits for a token says no


class App:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = engine.dialect

    async def handle(self, request: Request, out: Out) -> None:
        """The boundary of a request: nothing but a cancellation leaves it."""
        try:
            await self._handle(request, out)
        except CrashError as crash:
            sys.stderr.write(f"{crash}\n")
            sys.stderr.flush()
            self._engine.kill()
        except Exception:  # noqa: BLE001 - the boundary: logged, and the client is told
            traceback.print_exc()
            if not out.begun:
                await out.page(_SERVER_ERROR)
            out.close()
        if self._engine.options.access_log:
            sys.stderr.write(f'INFO:     127.0.0.1:0 - "{request.method} {request.path} HTTP/1.1" {out.status}\n')
            sys.stderr.flush()

    async def controls(self, request: Request, out: Out) -> None:
        """The admin port: the controls alone."""
        if request.path.startswith(_CONTROLS):
            await out.page(self._control(request))
        else:
            await out.page(NOT_FOUND)

    async def _handle(self, request: Request, out: Out) -> None:
        if request.path.startswith("/sim/"):
            await self.controls(request, out)
            return
        if not self._authorised(request):
            await out.page(_UNAUTHORIZED)
            return
        route, tail = self._route(request)
        if isinstance(route, Page):
            await out.page(route)
        elif route in INFERENCE:
            await Inference(self._engine, out).run(route, request)
        elif route in HEALTH:
            await out.page(await self._health(route))
        elif route in SLUMBER:
            await out.page(await sleep.answer(self._engine, route))
        else:
            await out.page(self._page(route, request, tail))

    def _authorised(self, request: Request) -> bool:
        key = self._engine.options.api_key
        if key is None or not self._dialect.guarded(request.path) or request.method == "OPTIONS":
            return True
        return request.headers.get("authorization") == f"Bearer {key}"

    def _route(self, request: Request) -> tuple[Route | Page, str]:
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

    def _nowhere(self, request: Request) -> Page:
        """A trailing slash is sent on to the path without it."""
        shorter = request.path.rstrip("/")
        if request.path.endswith("/") and shorter in self._dialect.routes:
            location = f"http://{request.headers.get('host', 'localhost')}{shorter}"
            return Page(status=307, content_type=None, headers=(("location", location),))
        return NOT_FOUND

    async def _health(self, route: Route) -> Page:
        """Three kinds: pages that always say yes, pages that know the state, and pages that wait for a token."""
        engine = self._engine
        if engine.faults.value("unhealthy") is not None:
            return _UNHEALTHY
        if route in (Route.PING, Route.HEALTH):
            return _EMPTY
        if engine.draining or not engine.warm:
            return _UNHEALTHY
        if route is Route.HEALTH_GENERATE:
            return await self._generated()
        return _EMPTY

    async def _generated(self) -> Page:
        engine = self._engine
        try:
            async with asyncio.timeout(_PROBE_GIVES_UP_S if self._dialect.probe_s else None):
                if engine.faults.value("wedged") is not None:
                    await forever()
                async with engine.place():
                    await engine.clock().until(1)
                    await asyncio.sleep(self._dialect.probe_s)
        except TimeoutError:
            return _UNHEALTHY
        return _EMPTY

    def _page(self, route: Route, request: Request, tail: str) -> Page:
        try:
            if route is Route.ABORT:
                self._abort(request)
            call = Call(path=request.path, tail=tail, headers=request.headers, body=request.body)
            return self._dialect.page(route, call, self._engine.figures())
        except InvalidError as problem:
            return self._dialect.invalid(problem, request.path)
        except RefusalError as problem:
            return self._dialect.refused(problem)

    def _abort(self, request: Request) -> None:
        body = body_validation.load(request.body)
        if body.get("abort_all"):
            self._engine.interrupt(Interrupt.ABORT)
        elif body.get("rid"):
            self._engine.interrupt(Interrupt.ABORT, str(body["rid"]))

    def _control(self, request: Request) -> Page:
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
            return Page(status=400, body=orjson.dumps({"error": str(error)}))
        if request.method != "GET":
            self._engine.changed()
        known = {name: kind.help for name, kind in FAULTS.items()}
        return Page(body=orjson.dumps({"on": faults.to_json(), "faults": known}))
