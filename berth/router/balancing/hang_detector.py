"""Finds the replicas that hang. A whole answer says nothing until it is complete, so its silence tells nothing.

A replica that has been silent for BERTH_TOKEN_TIMEOUT while whole answers are waited for is asked for one token. Where
not even that comes within BERTH_FIRST_TOKEN_TIMEOUT, it hangs: the requests that wait there go on to another one. One
that is slow must not be taken for one that hangs. So

1. the token is only asked for where the replica has room, by its limit and over all workers: else it would wait inside
   the engine behind others. Where all places are taken, the next one that comes free is used for it. Without a limit
   nobody knows, and the answers have all the time that they may take;
2. any answer to it counts, an error too, and so does whatever the replica says to others meanwhile;
3. only those that were waiting before it was asked for are given up.
"""

import asyncio
import time
from types import TracebackType
from typing import Final

from berth.canonical import InferenceRequest, Operation
from berth.log import log
from berth.plan import Limits
from berth.router.balancing.admission import Admission
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange.inflight import InflightRequest
from berth.router.exchange.request import RequestContext
from berth.router.upstream.connection import AnswerTimeoutError, UpstreamFailureError

_AGAIN_S: Final = 1.0  # from one that could not be asked to the next try
_UNKNOWN: Final = -1  # a status
_ONE_TOKEN: Final = {"prompt": ".", "max_tokens": 1, "temperature": 0}


class HangsError(UpstreamFailureError):
    """The replica was found to hang."""


class Wait:
    """A whole answer that is waited for, in the current task. HangsError comes out of it when the replica hangs."""

    __slots__ = ("_flight", "_given_up", "_task", "_waits", "since")

    def __init__(self, waits: "dict[Wait, None]", flight: InflightRequest) -> None:
        self._waits = waits
        self._flight = flight
        self._task = asyncio.current_task(flight.loop)
        self._given_up = ""
        self.since = time.monotonic()

    def give_up(self, reason: str) -> None:
        if self._task is not None and self._flight.stopped is None:
            self._given_up = reason
            self._task.cancel()

    def __enter__(self) -> None:
        self._waits[self] = None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        del self._waits[self]
        if self._given_up and self._task is not None and isinstance(exc, asyncio.CancelledError):
            self._task.uncancel()
            if self._flight.stopped is None:
                raise HangsError(self._given_up) from exc


class HangDetector:
    """Of all replicas, for one worker."""

    def __init__(self, upstreams: Upstreams, admission: Admission, limits: Limits) -> None:
        self._upstreams = upstreams
        self._admission = admission
        self._silence_s = limits.token_timeout_s
        self._limit_s = limits.first_token_timeout_s
        self._waits: dict[Upstream, dict[Wait, None]] = {}  # the oldest in front
        self._checks: dict[Upstream, asyncio.Task[None]] = {}
        upstreams.attend(self.look, self.close)

    def waiting(self, call: RequestContext, upstream: Upstream) -> Wait:
        """A context manager: within it a whole answer of the replica is waited for."""
        waits = self._waits.get(upstream)
        if waits is None:
            waits = self._waits[upstream] = {}
        return Wait(waits, call.flight)

    def look(self) -> None:
        """Called a few times a second: asks those that have been silent for too long."""
        now = time.monotonic()
        for upstream, waits in self._waits.items():
            upstream.spared = 0
            if upstream.limit and upstream not in self._checks and self._is_silent(upstream, waits, now):
                self._ask(upstream)

    def close(self) -> None:
        for check in self._checks.values():
            check.cancel()

    def _is_silent(self, upstream: Upstream, waits: dict[Wait, None], now: float) -> bool:
        oldest = next(iter(waits), None)
        return oldest is not None and now - max(oldest.since, upstream.heard) > self._silence_s

    def _ask(self, upstream: Upstream) -> None:
        """As soon as it has room."""
        if self._admission.spare(upstream):
            # no TaskGroup: it is for a few replicas only, outlives the request that waits, and ends by itself
            self._checks[upstream] = asyncio.ensure_future(self._check(upstream))

    async def _check(self, upstream: Upstream) -> None:
        """Takes the place that was kept."""
        since, progress = time.monotonic(), upstream.progress
        self._admission.taken(upstream)
        status = 0
        try:
            status = await self._answer(upstream, since + self._limit_s)
        except Exception:  # noqa: BLE001 - nobody waits for this task: logged, and nothing is concluded
            log.exception("a replica could not be asked whether it is alive", replica=upstream.replica.name)
            status = _UNKNOWN
        finally:
            del self._checks[upstream]
            self._admission.left(upstream)
        if status == 200:
            self._upstreams.succeeded(upstream)
        elif status or upstream.heard > since or upstream.progress != progress:
            upstream.heard = time.monotonic()
        else:
            self._give_up(upstream, since)

    def _give_up(self, upstream: Upstream, since: float) -> None:
        reason = f"the engine hangs: it gave not even one token within {self._limit_s:g} s"
        lost = [wait for wait in self._waits[upstream] if wait.since <= since]
        log.warning("replica hangs", replica=upstream.replica.name, requests=len(lost))
        self._upstreams.failed(upstream, certain=True)
        for wait in lost:
            wait.give_up(reason)

    async def _answer(self, upstream: Upstream, ends: float) -> int:
        """The HTTP status; 0: none came up to that time, or it could not be reached all the time."""
        request = InferenceRequest(operation=Operation.COMPLETION, model=upstream.replica.model, body=_ONE_TOKEN)
        wanted = upstream.dialect.request(request, upstream.replica.served_name)
        while (left_s := ends - time.monotonic()) > 0:
            try:
                connection = await upstream.pool.request(wanted.path, wanted.body, {}, left_s)
            except AnswerTimeoutError:
                return 0
            except UpstreamFailureError:
                await asyncio.sleep(min(_AGAIN_S, left_s))
            else:
                upstream.pool.release(connection)
                return connection.status
        return 0
