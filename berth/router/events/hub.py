"""The listeners of /events of one worker, and what all of them are sent, computed once a second.

Nothing is computed while there are no listeners. A listener is no request: it takes no capacity, and ends at once when
its worker drains; clients connect again by themselves, to another worker.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import orjson

from berth.errors import ControlError, NotReadyError
from berth.ipc.control_socket import ask
from berth.ipc.journal import Names
from berth.ipc.operations import Operation, Request
from berth.log import log
from berth.plan import ApiKey, Keys, Plan
from berth.plan.keys import OPEN
from berth.router.events.host_usage import HostUsage
from berth.router.events.log_tail import LogTail
from berth.router.events.request_feed import RequestFeed
from berth.router.telemetry.rates import Sample, Sampler, traffic
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.telemetry.visible import ALL, Visible
from berth.state import State

MOST_LISTENERS: Final = 64
PERIOD_S: Final = 1.0
WINDOW_PERIODS: Final = 10  # of rates
KEEP_ALIVE_S: Final = 15.0
RETRY_MS: Final = 3000
_RETRY_FULL_S: Final = 5
_CONTROL_S: Final = 2.0  # to answer
_PASSING: Final = (
    "age_s",
    "free_bytes",
    "in_flight",
    "latency",
    "length",
    "load",
    "gpus",
    "ready_at",
    "left_s",
    "rules",
)  # numbers of /status that change all the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    requests: bool = False
    logs: str = ""  # a replica
    since: float | None = None  # Unix seconds: of the last event that the client has
    seen: Visible = ALL  # what the client may see
    granted: ApiKey = OPEN  # by which key


class Listener:
    """What waits to be sent to one client."""

    def __init__(self, wants: Wants) -> None:
        self.wants = wants
        self._pending: list[bytes] = []
        self._ended = False
        self._wakes = asyncio.Event()

    def put(self, *events: bytes) -> None:
        self._pending += events
        self._wakes.set()

    def end(self) -> None:
        self._ended = True
        self._wakes.set()

    async def next(self) -> bytes:
        """All that waits. b"": there will be nothing more."""
        while not self._pending and not self._ended:
            await self._wakes.wait()
            self._wakes.clear()
        pending, self._pending = self._pending, []
        return b"".join(pending)


def event(kind: str, document: Any, at: float) -> bytes:
    """One server-sent event. Its id is the time up to which the client knows everything then."""
    return b"event: %b\nid: %.3f\ndata: %b\n\n" % (kind.encode(), at, orjson.dumps(document))


def lasting(document: Any) -> Any:
    """The parts of a /status that are worth an event when they change."""
    if isinstance(document, dict):
        return {name: lasting(value) for name, value in document.items() if name not in _PASSING}
    return [lasting(one) for one in document] if isinstance(document, list) else document


class Hub:
    """Of one worker."""

    def __init__(
        self,
        plan: Plan,
        keys: Keys,
        board: Scoreboard,
        *,
        status: Callable[[], dict[str, Any]],
        state: Callable[[], State | None],
    ) -> None:
        """`status` returns the document of /status, `state` the last State."""
        self._plan, self._keys, self._board, self._status, self._state = plan, keys, board, status, state
        self._listeners: set[Listener] = set()
        self._wanted = asyncio.Event()  # there are listeners
        self._closed = False
        self._requests = RequestFeed(plan.paths.journal, plan.paths.heartbeats, Names(plan, keys.names()))
        self._sampler = Sampler(plan, board.layout)
        self._samples: deque[Sample] = deque(maxlen=WINDOW_PERIODS + 1)
        self._usage = HostUsage(plan.paths.heartbeats)
        self._tails: dict[str, LogTail] = {}
        self._operations: Mapping[str, Operation] | None = None  # None: control was not asked yet
        self._shown: Any = None  # of the state that was sent last
        self._last_traffic: dict[str, Any] | None = None
        self._traffic_at = 0.0
        self._kept_alive_at = 0.0

    def replace(self, keys: Keys) -> None:
        """From now on keys have these names and rights: listeners whose key has lost or got some connect again."""
        self._requests.rename(Names(self._plan, keys.names()))
        now = {key.name: (key.digests, key.models, key.expires) for key in keys.api_keys}
        for listener in self._listeners:
            key = listener.wants.granted
            if key is not OPEN and now.get(key.name) != (key.digests, key.models, key.expires):
                listener.end()

    def join(self, wants: Wants) -> Listener:
        """`leave` it again. NotReadyError if there are too many. While the worker drains, the listener ends at once: an
        error would keep browsers from connecting again.
        """
        if len(self._listeners) >= MOST_LISTENERS:
            text = f"{MOST_LISTENERS} clients listen to this worker already."
            raise NotReadyError(text, code="too_many_listeners", retry_after_s=_RETRY_FULL_S)
        listener = Listener(wants)
        listener.put(b"retry: %d\n\n" % RETRY_MS)
        if self._closed:
            listener.end()
            return listener
        listener.put(*self.first_events(wants, time.time()))
        self._listeners.add(listener)
        self._wanted.set()
        return listener

    def first_events(self, wants: Wants, now: float) -> Iterator[bytes]:
        """For a client that joins: the state, the traffic if it is known, the operations that are running, the last
        requests, and the last lines of the log.
        """
        status = self._status()
        if not self._listeners:
            self._shown = lasting(status)
        yield event("state", wants.seen.status(status), now)
        if self._last_traffic is not None:
            yield event("traffic", wants.seen.traffic(self._last_traffic), self._traffic_at)
        for operation in (self._operations or {}).values():
            if operation.running and wants.seen.sees(operation.model):
                yield event("operation", msgspec.to_builtins(operation), now)
        if wants.requests:
            if not any(other.wants.requests for other in self._listeners):
                self._requests.begin()
            yield event("requests", wants.seen.requests(self._requests.first(wants.since)), now)
        if wants.logs:
            tail = LogTail(self._plan.paths.replica_log(wants.logs), self._keys)
            yield event("log", {"replica": wants.logs, "lines": tail.read()[0], "skipped": 0}, now)
            if self._tails.setdefault(wants.logs, tail) is not tail:
                tail.close()

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        for name in self._tails.keys() - {other.wants.logs for other in self._listeners}:
            self._tails.pop(name).close()
        if not self._listeners:
            self._wanted.clear()
            self._samples.clear()
            self._last_traffic = None

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def end_all(self) -> None:
        """The worker drains: its listeners end, and new ones at once."""
        self._closed = True
        for listener in self._listeners:
            listener.end()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._tick))
            group.create_task(self._repeat(self._ask_control))

    def close(self) -> None:
        self._requests.close()
        for tail in self._tails.values():
            tail.close()

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        """Once a period, while there are listeners."""
        while True:
            await self._wanted.wait()
            try:
                await work()
            except Exception:  # noqa: BLE001 - what is shown of a worker must not end its work
                log.exception("events not computed")
            await asyncio.sleep(PERIOD_S)

    async def _tick(self) -> None:
        now, status = time.time(), self._status()
        if (shown := lasting(status)) != self._shown:
            self._shown = shown
            self._send(lambda seen: event("state", seen.status(status), now))
        self._samples.append(self._sampler.sample(self._board.totals()[0], time.monotonic()))
        rates = traffic(self._samples[0], self._samples[-1], self._sampler.bounds, self._state())
        shown_traffic = self._last_traffic = {"t": round(now, 3), **rates, "host": self._usage.document()}
        self._traffic_at = now
        self._send(lambda seen: event("traffic", seen.traffic(shown_traffic), now))
        listening = [listener for listener in self._listeners if listener.wants.requests]
        if listening and (requests := self._requests.next()) is not None:
            self._send(lambda seen: event("requests", seen.requests(requests), now), listening)
        for name, tail in self._tails.items():
            lines, skipped = tail.read()
            if lines or skipped:
                sent = event("log", {"replica": name, "lines": lines, "skipped": skipped}, now)
                for listener in self._listeners:
                    if listener.wants.logs == name:
                        listener.put(sent)
        if now - self._kept_alive_at >= KEEP_ALIVE_S:
            self._kept_alive_at = now
            self._send(lambda _seen: b": keep-alive\n\n")

    async def _ask_control(self) -> None:
        """For operations that are new or have changed. Those that were over at the first question are neither."""
        try:
            reply = await ask(self._plan.paths.control_socket, Request(), timeout_s=_CONTROL_S)
        except ControlError:  # the state shows that control is silent
            return
        before, self._operations = self._operations, {one.id: one for one in reply.operations}
        for operation in reply.operations:
            if operation.running if before is None else operation != before.get(operation.id):
                sent = event("operation", msgspec.to_builtins(operation), time.time())
                for listener in self._listeners:
                    if listener.wants.seen.sees(operation.model):
                        listener.put(sent)

    def _send(self, render: Callable[[Visible], bytes], listeners: Iterable[Listener] | None = None) -> None:
        """To all, or to these; computed once for all that see the same."""
        rendered: dict[Visible, bytes] = {}
        for listener in self._listeners if listeners is None else listeners:
            seen = listener.wants.seen
            if seen not in rendered:
                rendered[seen] = render(seen)
            listener.put(rendered[seen])
