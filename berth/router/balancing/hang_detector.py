"""Hang detection. A non-streaming response sends nothing until it is complete, so silence alone proves nothing.

A replica that has been silent for BERTH_TOKEN_TIMEOUT while non-streaming responses are awaited gets a liveness check:
a request for one token. If that does not come within BERTH_FIRST_TOKEN_TIMEOUT, the replica hangs, and the requests
that wait for it are sent to another one. A slow replica must not be mistaken for one that hangs. So

1. the check is only sent when the replica has a free slot, by its limit and over all workers: otherwise it would be
   queued inside the engine. If all slots are in use, the next free one is reserved for it. Replicas without a limit
   are not watched: their responses have all the time that they may take;
2. any response to it counts, an error too, and so does whatever the replica sends to other requests meanwhile;
3. only requests that were waiting before the check was sent are given up.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from berth.canonical import InferenceRequest, Operation
from berth.log import log
from berth.plan import Limits
from berth.router.balancing.admission import Admission
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange.inflight import InflightRequest
from berth.router.upstream.connection import PreemptedError, ResponseTimeoutError, UpstreamFailureError

_RETRY_S: Final = 1.0  # until the next try when the check could not be sent
_UNKNOWN: Final = -1  # a status
_ONE_TOKEN: Final = {"prompt": ".", "max_tokens": 1, "temperature": 0}

T = TypeVar("T")


class HangsError(UpstreamFailureError):
    """The replica hangs."""


class Wait:
    """A non-streaming response that the current task awaits."""

    __slots__ = ("_inflight", "reason", "since", "task")

    def __init__(self, inflight: InflightRequest) -> None:
        self._inflight = inflight
        self.task = asyncio.current_task(inflight.loop)
        self.reason = ""  # why it was given up
        self.since = time.monotonic()

    def give_up(self, reason: str) -> None:
        if self.task is not None and self._inflight.stopped is None:
            self.reason = reason
            self.task.cancel()


class HangDetector:
    """Of all replicas, for one worker."""

    def __init__(self, upstreams: Upstreams, admission: Admission, limits: Limits) -> None:
        self._upstreams = upstreams
        self._admission = admission
        self._silence_s = limits.token_timeout_s
        self._limit_s = limits.first_token_timeout_s
        self._waits: dict[Upstream, dict[Wait, None]] = {}  # the oldest first
        self._checks: dict[Upstream, asyncio.Task[None]] = {}

    async def watch(self, inflight: InflightRequest, upstream: Upstream, response: Coroutine[Any, Any, T]) -> T:
        """Awaits a response of a replica that has a limit. HangsError when the replica hangs."""
        wait = Wait(inflight)
        waits = self._waits.setdefault(upstream, {})
        waits[wait] = None
        try:
            return await response
        except asyncio.CancelledError as exc:
            if not wait.reason or wait.task is None:
                raise
            wait.task.uncancel()
            if inflight.stopped is not None:
                raise
            raise HangsError(wait.reason) from exc
        finally:
            del waits[wait]

    def poll(self) -> None:
        """Called a few times a second: checks the replicas that have been silent for too long."""
        now = time.monotonic()
        for upstream, waits in self._waits.items():
            self._admission.cancel_check(upstream)
            oldest = next(iter(waits), None)
            if upstream in self._checks or oldest is None:
                continue
            if now - max(oldest.since, upstream.heard) > self._silence_s and self._admission.reserve_for_check(
                upstream
            ):
                # no TaskGroup: it is for a few replicas only, outlives the waiting request, and ends by itself
                self._checks[upstream] = asyncio.ensure_future(self._check(upstream))

    def close(self) -> None:
        for check in self._checks.values():
            check.cancel()

    async def _check(self, upstream: Upstream) -> None:
        """Uses the reserved slot."""
        since, progress = time.monotonic(), upstream.progress
        status = 0
        self._admission.begin(upstream)
        try:
            status = await self._one_token(upstream, since + self._limit_s)
        except Exception:  # noqa: BLE001 - the boundary of a background task: logged, and nothing is concluded
            log.exception("liveness check failed", replica=upstream.replica.name)
            status = _UNKNOWN
        finally:
            del self._checks[upstream]
            self._admission.end(upstream)
        if status == 200:
            self._upstreams.succeeded(upstream)
        elif status or upstream.heard > since or upstream.progress != progress:
            self._upstreams.responded(upstream)
        else:
            lost = [wait for wait in self._waits[upstream] if wait.since <= since]
            log.warning("replica hangs", replica=upstream.replica.name, requests=len(lost))
            self._upstreams.failed(upstream, certain=True)
            for wait in lost:
                wait.give_up(f"the engine hangs: no token within {self._limit_s:g} s")

    async def _one_token(self, upstream: Upstream, ends: float) -> int:
        """The HTTP status; 0: none came in time, or there was no connection all the time."""
        request = InferenceRequest(operation=Operation.COMPLETION, model=upstream.replica.model, body=_ONE_TOKEN)
        sent = upstream.dialect.request(request, upstream.replica.served_name)
        while (left_s := ends - time.monotonic()) > 0:
            try:
                connection = await upstream.pool.request(sent.path, sent.body, {}, left_s)
            except ResponseTimeoutError:
                return 0
            except PreemptedError:
                return _UNKNOWN
            except UpstreamFailureError:
                await asyncio.sleep(min(_RETRY_S, left_s))
            else:
                upstream.pool.release(connection)
                return connection.status
        return 0
