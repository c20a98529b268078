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
from berth.control_socket import ask
from berth.errors import ControlError, NotReadyError
from berth.log import log
from berth.operations import Action, Change, Keep, OperationState, Request
from berth.plan import Load, ModelRoute
from berth.router.exchange.request import RequestContext
from berth.router.server.inference import Inference
from berth.router.worker import Worker

_POLL_S = 0.2
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

    async def _prepare(self, route: ModelRoute, request: Immediate) -> None:
        if route.load is not Load.ON_REQUEST:
            return
        if request.loads and not self._worker.upstreams.ready(route):
            await self._load(route.base or route.name)
        await self._keep(route, request.keep_alive_s)

    async def _load(self, model: str) -> None:
        """Returns when it is loaded. NotReadyError when it cannot be."""
        path, change = self._worker.plan.paths.control_socket, Change(action=Action.LOAD, model=model, by="a client")
        try:
            reply = await ask(path, Request(change=change))
            while reply.operation is not None and reply.operation.running:
                await asyncio.sleep(_POLL_S)
                reply = await ask(path, Request(operation=reply.operation.id))
        except ControlError as error:
            raise NotReadyError(str(error), code="control_silent", retry_after_s=1) from error
        if reply.denial is not None:
            raise NotReadyError(reply.denial.message, code=reply.denial.code, should_retry=False)
        if reply.operation is not None and reply.operation.state is not OperationState.DONE:
            text = f"Model {model!r} was not loaded: {reply.operation.reason or reply.operation.state}."
            raise NotReadyError(text, code="model_failed", should_retry=False)

    async def _keep(self, route: ModelRoute, seconds: float | None) -> None:
        if seconds is None:
            return
        keep = Keep(model=route.base or route.name, seconds=None if math.isinf(seconds) else seconds)
        try:
            await ask(self._worker.plan.paths.control_socket, Request(keep=keep), timeout_s=_KEEP_TIMEOUT_S)
        except ControlError as error:
            log.warning("keep_alive without effect", model=keep.model, reason=str(error))
