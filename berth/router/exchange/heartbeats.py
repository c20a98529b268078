"""Heartbeats for the client of a stream that has begun, while nothing is forwarded: its next engine has to be found,
and has to begin.
"""

import asyncio
from collections.abc import Awaitable

from berth.apis.stream_events import HEARTBEAT_S
from berth.router.exchange.request import RequestContext

FIRST_S = HEARTBEAT_S / 5  # the client may have had nothing for a while already


class Heartbeats:
    """`async with` it, as often as needed. Nothing else may be sent within it."""

    __slots__ = ("_ctx", "_due", "_full", "_timer")

    _timer: asyncio.TimerHandle  # within it

    def __init__(self, ctx: RequestContext) -> None:
        self._ctx = ctx
        self._due = ctx.inflight.loop.time() + FIRST_S
        self._full: Awaitable[None] | None = None  # the client's connection

    async def __aenter__(self) -> None:
        self._timer = self._ctx.inflight.loop.call_at(self._due, self._beat)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._full is not None and kind is not asyncio.CancelledError:
            full, self._full = self._full, None
            await self._ctx.inflight.drained(full)

    def _beat(self) -> None:
        loop = self._ctx.inflight.loop
        self._due = loop.time() + HEARTBEAT_S
        self._timer = loop.call_at(self._due, self._beat)
        if self._full is None and (encoded := self._ctx.encoder.heartbeat("waiting for an engine")):
            self._full = self._ctx.inflight.push({"type": "http.response.body", "body": encoded, "more_body": True})
