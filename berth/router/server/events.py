"""GET /events: what happens, as server-sent events; see docs/events.md. It needs a key where /status does. With
the key of a client it shows that client's requests alone, and no logs.
"""

import asyncio
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from berth.apis.base import SSE
from berth.errors import ForbiddenError, NotFoundError, shortened
from berth.log import log
from berth.plan.keys import OPEN
from berth.router.events.hub import Listener, Wants
from berth.router.telemetry.visible import visible
from berth.router.worker import Worker

STALL_S: Final = 10.0  # a client that reads nothing for so long is dropped
_HEADERS: Final = [
    (b"content-type", SSE),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # an nginx in front would buffer the events
]


class Events:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        key = worker.auth.check(headers, scope.get("client"), changes=False)
        wants = wants_of(scope["query_string"], headers.get(b"last-event-id", b""))
        if key is not OPEN:
            wants = replace(wants, seen=visible(worker.plan, key), granted=key)
            if wants.logs:
                raise ForbiddenError("Logs are for operators: send BERTH_ADMIN_KEY, or sign in to the page with it.")
        if wants.logs and not any(wants.logs == replica.name for replica in worker.plan.replicas):
            raise NotFoundError(f"There is no replica {shortened(wants.logs)!r}.", param="logs")
        extra = (b"x-request-id", worker.request_ids.of(headers).encode())
        start = {"type": "http.response.start", "status": 200, "headers": [*_HEADERS, extra]}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        listener = worker.events.join(wants)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_until_gone(receive, listener))
                await send(start)
                await _forward(listener, send)
                watch.cancel()
        finally:
            worker.events.leave(listener)


def wants_of(query: bytes, last_event_id: bytes) -> Wants:
    """`?requests=1&logs=REPLICA`, and the id of the last event that the client has."""
    given = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    try:
        since = float(last_event_id) if last_event_id else None
    except ValueError:  # of another server
        since = None
    return Wants(requests=given.get("requests") == "1", logs=given.get("logs", ""), since=since)


async def _forward(listener: Listener, send: Send) -> None:
    """Until the listener ends. A client that does not read loses its connection: its response stays incomplete."""
    try:
        while events := await listener.next():
            async with asyncio.timeout(STALL_S):
                await send({"type": "http.response.body", "body": events, "more_body": True})
    except TimeoutError:
        log.info("listener dropped", reason=f"it has read nothing for {STALL_S:g} s")
        return
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, listener: Listener) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception:  # noqa: BLE001 - the boundary of a request: its connection is unusable
        log.exception("client connection failed")
    listener.end()
