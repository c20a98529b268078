"""/admin/capture: what `berth capture` does, over the network. Only operators may read what was captured."""

import time

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from berth.apis.json_weight import UNWEIGHED_BYTES
from berth.errors import ControlError, InvalidRequestError, NotReadyError, TooLargeError
from berth.ipc.capture import MOST_REQUESTS, USUAL_S, Capture, CaptureAction, CaptureRequest, Only, parse_only
from berth.ipc.control_socket import ask
from berth.ipc.operations import Request
from berth.router.exchange.inflight import read_body
from berth.router.exchange.responses import json_reply, write
from berth.router.server.admin import error_of, operator_of
from berth.router.worker import Worker

_EXAMPLE = '{"for_s": 600, "model": "chat", "key": "ci", "only": "errors"}'


class CaptureAdmin:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        who = operator_of(worker, headers, changes=scope["method"] != "GET")
        client = scope.get("client")
        wanted = await self._wanted(scope, receive, send)
        request = Request(capture=wanted, who=who, origin=client[0] if client else "?")
        try:
            reply = await ask(worker.plan.paths.control_socket, request)
        except ControlError as error:
            raise NotReadyError(str(error), code="control_silent", retry_after_s=1) from error
        if reply.denial is not None:
            raise error_of(reply.denial)
        extra = [(b"x-request-id", worker.request_ids.of(headers).encode()), (b"cache-control", b"no-store")]
        await write(send, json_reply(msgspec.to_builtins(reply.captured)), extra)

    async def _wanted(self, scope: Scope, receive: Receive, send: Send) -> CaptureRequest:
        number = scope["path_params"].get("id", "")
        if scope["method"] == "DELETE":
            return CaptureRequest(action=CaptureAction.CLEAR)
        if scope["method"] == "GET":
            return CaptureRequest(action=CaptureAction.SHOW if number else CaptureAction.LIST, id=number)
        inflight = self._worker.inflight
        request = inflight.begin(receive, send, scope.get("client"))
        try:
            body = await read_body(dict(scope["headers"]), request, self._worker.plan.limits, inflight.memory)
        finally:
            inflight.end(request)
        if len(body) > UNWEIGHED_BYTES:
            raise TooLargeError(f"The request has {len(body)} bytes: more than a capture needs.")
        return wanted_of(body, time.time())


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST."""

    for_s: float = USUAL_S  # 0 ends the capture
    model: str = ""
    key: str = ""
    only: str = Only.ALL
    max: int = MOST_REQUESTS


def wanted_of(body: bytes, now: float) -> CaptureRequest:
    """InvalidRequestError for what is no request."""
    try:
        wanted = msgspec.json.decode(body or b"{}", type=Wanted)
        only, slow_s = parse_only(wanted.only)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not a capture ({error}). Send, for example, {_EXAMPLE}") from error
    if not wanted.for_s:
        return CaptureRequest(action=CaptureAction.END)
    ends = now + wanted.for_s
    capture = Capture(ends=ends, model=wanted.model, key=wanted.key, only=only, slow_s=slow_s, most=wanted.max)
    return CaptureRequest(action=CaptureAction.START, capture=capture)


def routes(worker: Worker) -> list[Route]:
    admin = CaptureAdmin(worker)
    return [
        Route("/admin/capture", admin, methods=["GET", "POST", "DELETE"]),
        Route("/admin/capture/{id}", admin, methods=["GET"]),
    ]
