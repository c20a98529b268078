"""Ollama's `keep_alive`, and its requests without a prompt: for models that requests load, they mean what Ollama's
clients expect. Models that are always loaded stay so.

A client changes how long a model stays without requests, and nothing else: running requests, pins, and the models that
wait for its room come first.
"""

import asyncio
import math
from collections.abc import Mapping

from msgspec.structs import replace

from berth.apis.base import ApiFormat, Immediate
from berth.apis.ollama.fields import keep_alive_s
from berth.errors import ControlError
from berth.ipc.control_socket import ask
from berth.ipc.operations import Keep, Request
from berth.log import log
from berth.plan import Load, ModelRoute
from berth.router.exchange.request import RequestContext
from berth.router.server.inference import Inference
from berth.router.worker import Worker

_KEEP_TIMEOUT_S = 1.0  # the client has its response already


class OllamaInference(Inference):
    def __init__(self, worker: Worker, api: ApiFormat) -> None:
        super().__init__(worker, api)
        self._tasks: set[asyncio.Task[None]] = set()

    async def _respond(self, ctx: RequestContext, headers: Mapping[bytes, bytes]) -> None:
        await super()._respond(ctx, headers)
        if ctx.accepted and ctx.route.load is Load.ON_REQUEST:
            # Not in the request's own task: that is stopped when its client leaves, which it may after its response.
            task = asyncio.create_task(self._keep(ctx.route, keep_alive_s(ctx.request.original)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _accept(self, ctx: RequestContext, headers: Mapping[bytes, bytes]) -> bool:
        is_accepted = await super()._accept(ctx, headers)
        if is_accepted and ctx.route.load is Load.ON_REQUEST:
            ignored = tuple(name for name in ctx.request.ignored if name != "keep_alive")
            ctx.request = replace(ctx.request, ignored=ignored)
        return is_accepted

    async def _answer(self, ctx: RequestContext, request: Immediate) -> None:
        await self._prepare(ctx, request)
        await super()._answer(ctx, request)

    async def _prepare(self, ctx: RequestContext, request: Immediate) -> None:
        """A load waits like any request for the model, whatever is done to it meanwhile."""
        route, upstreams = ctx.route, self._worker.upstreams
        if route.load is not Load.ON_REQUEST:
            return
        while request.loads:
            await self._worker.admission.until_ready(ctx)
            await self._keep(route, request.keep_alive_s)
            upstreams.poll()
            if upstreams.ready(route):
                return  # else it was about to leave when it was to stay
        await self._keep(route, request.keep_alive_s)

    async def _keep(self, route: ModelRoute, seconds: float | None) -> None:
        if seconds is None:
            return
        keep = Keep(model=route.base or route.name, seconds=None if math.isinf(seconds) else seconds)
        try:
            await ask(self._worker.plan.paths.control_socket, Request(keep=keep), timeout_s=_KEEP_TIMEOUT_S)
        except ControlError as error:
            log.warning("keep_alive without effect", model=keep.model, reason=str(error))
