"""The parts of one router worker, and its background work: polls, and the shutdown within the drain timeout."""

import asyncio
import gc
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from berth.dialects.requests.references import Fetching
from berth.host import cgroup
from berth.ipc import key_counters
from berth.ipc.heartbeats import FIRST_WORKER, Heartbeat
from berth.ipc.key_counters import Shape
from berth.ipc.key_poll import KeyPoll
from berth.ipc.preloads import preloads
from berth.ipc.shadow import Mirror
from berth.ipc.traffic import TrafficReport
from berth.log import log
from berth.notices import Notice, notices
from berth.plan import ApiKey, Keys, Plan, read_keys, read_plan
from berth.router.balancing import affinity
from berth.router.balancing.admission import Admission
from berth.router.balancing.hang_detector import HangDetector
from berth.router.balancing.limits import Limits
from berth.router.balancing.model_catalog import ModelCatalog
from berth.router.balancing.rules import Rules
from berth.router.balancing.upstreams import Upstreams
from berth.router.client_connections import ClientConnections, own_room
from berth.router.events.hub import Hub
from berth.router.exchange.addresses import Addresses
from berth.router.exchange.auth import Authenticator
from berth.router.exchange.captures import Captures
from berth.router.exchange.headers import RequestIds
from berth.router.exchange.inflight import InflightRequests, StopReason
from berth.router.exchange.memory_budget import MemoryBudget, budget_bytes
from berth.router.exchange.off_loop import OffLoop
from berth.router.exchange.peers import Peers
from berth.router.exchange.sessions import Sessions
from berth.router.exchange.tracing import Traces
from berth.router.exchange.web_pages import WebPages
from berth.router.forwarding.attempt import Attempts
from berth.router.forwarding.proxy import Proxy
from berth.router.handover import LEAVE_S, prefer_newest
from berth.router.response_store import ResponseFiles
from berth.router.shadowing.shadows import Shadows
from berth.router.steering import Steering
from berth.router.telemetry import status as status_document
from berth.router.telemetry.access_log import AccessLog
from berth.router.telemetry.key_board import KeyBoard
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.quantiles import Window
from berth.router.telemetry.request_journal import REFRESH_S, RequestJournal
from berth.router.telemetry.shared_counters import Scoreboard

POLL_S = 0.2
QUEUE_POLL_S = 0.025  # while requests are queued
LEAVE_TIMEOUT_S = 3600.0  # for the requests of a worker that was replaced; at least BERTH_DRAIN_TIMEOUT
GC_THRESHOLD = 10_000  # objects allocated since the last collection; 700 is the default


class Worker:
    leaving: bool = False  # True: another worker has replaced this one, and clients are sent there
    _ends_for: StopReason | None = None  # what clients read whose requests outlast it
    _queue_timer: asyncio.TimerHandle | None = None
    looked_at: int = 0  # when a client last asked for the engines' load, in seconds of the monotonic clock

    def __init__(self, plan: Plan, keys: Keys) -> None:
        self.plan, self.pages = plan, WebPages(plan.cors_origins, names=(plan.listen.host,))
        peers, sessions = Peers(plan.open_to, plan.trusted_proxies), Sessions(keys, secure=bool(plan.listen.tls_cert))
        self.auth = Authenticator(keys.api_keys, self.pages, peers, sessions, self.measuring)
        self.connections = ClientConnections(plan.listen.port, own_room(), plan.limits.client_stall_timeout_s)
        self.catalog = catalog = ModelCatalog(plan)
        self.rules = Rules(plan, catalog) if plan.rules else None
        self.hot = self.with_affinity = affinity.models(plan)
        self.upstreams = Upstreams(plan, keys, catalog.set_context, catalog.set_added, self.set_shares)
        self.board = Scoreboard(plan.paths.scoreboard, layout(plan))
        self.report = TrafficReport(plan.paths.traffic, self.board.index, len(plan.replicas), len(plan.models))
        self.journal = RequestJournal(plan.paths.journal, plan, self.board.index)
        self.heartbeat = Heartbeat(plan.paths.heartbeats, FIRST_WORKER + self.board.index)
        self.steering = Steering(plan.paths.heartbeats, FIRST_WORKER + self.board.index, plan.listen)
        keyed = KeyBoard(plan.paths.key_counters, Shape.of(plan), self.board)
        self.meter, self.window = Meter(self.board, keyed), Window(plan, self.board.layout)
        self.fetching = Fetching(offline=plan.offline, hosts=plan.fetch_hosts)
        self.addresses, self.access_log = Addresses(), AccessLog(plan.logs)
        memory = budget_bytes(plan.limits.max_body_bytes, cgroup.available_memory(), plan.listen.workers)
        self.inflight, self.keys = InflightRequests(MemoryBudget(memory)), KeyPoll(plan, keys)
        self.captures = Captures(plan.paths.control_socket, self.keys)
        self.shadows = Shadows(plan, self.upstreams, self.meter, self.board.index)
        self.off_loop, self.request_ids, self.responses = OffLoop(), RequestIds(), ResponseFiles.of(plan)
        self.traces = Traces(plan.tracing) if plan.tracing else None
        self.admission = Admission(plan, self.upstreams, self.meter, self._watch_queues)
        self.limits = Limits(plan, self.admission, self.meter.keys, self._watch_queues)
        self.hang_detector = HangDetector(self.upstreams, self.admission, plan.limits)
        attempts = Attempts(
            self.upstreams,
            self.admission,
            self.hang_detector,
            limits=plan.limits,
            meter=self.meter,
            journal=self.journal,
            request_ids=self.request_ids,
            off_loop=self.off_loop,
        )
        self.proxy = Proxy(self.upstreams, self.admission, attempts, self.meter)
        self.events = Hub(plan, keys, self.board, status=self.status, state=lambda: self.upstreams.state)
        self._parent, self._drain_ends = os.getppid(), math.inf  # the latter on the loop's clock

    def set_shares(self, canaries: Collection[str], mirrors: tuple[Mirror, ...]) -> None:
        """The conversations of routes with a canary stay with one of two replicas too."""
        self.with_affinity = self.hot.union(canaries)
        self.shadows.update(mirrors)

    def measuring(self, digest: str) -> ApiKey | None:
        return self.upstreams.measuring(digest)

    @property
    def draining(self) -> bool:
        """It ends as soon as its requests have finished."""
        return self._ends_for is not None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it the state is polled, SIGTERM ends the worker within BERTH_DRAIN_TIMEOUT, and SIGHUP as soon as
        its requests have finished.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.drain, loop)
        loop.add_signal_handler(signal.SIGHUP, self.leave, loop)
        self.upstreams.poll()
        # Objects of the start live as long as the worker. Requests create no cycles, so that a collection seldom pays:
        # at the default threshold it took 5 % of the CPU time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 10, 10)
        async with asyncio.TaskGroup() as group:
            self.inflight.watch_in(group)
            endless = (self._background(loop), self.events.run(), self.captures.run(), self.shadows.run())
            background = [group.create_task(one) for one in endless]
            yield
            self.inflight.watch_in(None)
            for task in background:
                task.cancel()
        self.access_log.flush()
        self.off_loop.close()
        self.hang_detector.close()
        self.upstreams.close()
        self.heartbeat.close()
        self.report.close()
        self.journal.close()
        self.events.close()
        self.meter.keys.close()
        self.shadows.close()
        self.board.close()

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Another worker takes its place: no new connections, and the requests in flight may finish. The second time
        they have BERTH_DRAIN_TIMEOUT.
        """
        if self._ends_for is not StopReason.DRAIN:
            drain_s = self.plan.limits.drain_timeout_s
            timeout_s = drain_s if self.leaving else max(LEAVE_TIMEOUT_S, drain_s)
            self.leaving = True
            prefer_newest(self.plan.listen.port, self.plan.listen.workers)
            self._end(loop, StopReason.REPLACED, timeout_s)

    def drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """No new connections; requests in flight may finish within BERTH_DRAIN_TIMEOUT. Also of one that leaves."""
        if self._ends_for is not StopReason.DRAIN:
            self._end(loop, StopReason.DRAIN, self.plan.limits.drain_timeout_s)

    def _end(self, loop: asyncio.AbstractEventLoop, reason: StopReason, timeout_s: float) -> None:
        """Granian stops in the same way on SIGINT as on SIGTERM, which is handled here: it gets a SIGINT."""
        log.info("draining", worker=os.getpid(), in_flight=len(self.inflight), replaced=self.leaving)
        if not self.draining:
            self.events.end_all()
            self.shadows.leave()
            loop.call_later(LEAVE_S if self.leaving else 0, os.kill, os.getpid(), signal.SIGINT)
        self._ends_for, self._drain_ends = reason, loop.time() + timeout_s

    def status(self) -> dict[str, Any]:
        """The document of /status."""
        self.looked_at = int(time.monotonic())
        upstreams, plan, now, traffic = self.upstreams, self.plan, time.time(), self.traffic()
        found = self.notices(now)
        statuses = status_document.current(upstreams.statuses, upstreams.state, traffic.down, now=now)
        document = status_document.status(plan, upstreams.state, statuses, now=now, traffic=traffic, found=found)
        return document | {"preloads": preloads(plan)}

    def notices(self, now: float) -> list[Notice]:
        """`now`: Unix seconds."""
        keys, recent = self.keys.current.api_keys, self.journal.recent(now)
        charged = key_counters.charged(self.meter.keys.used, keys)
        return notices(self.plan, self.upstreams.state, recent, now=now, keys=keys, charged=charged)

    def traffic(self) -> status_document.Traffic:
        """What /status and /metrics/vllm have of all workers."""
        return status_document.Traffic(
            down=self.upstreams.marked_down(),
            config_errors=self.upstreams.config_errors(),
            loads={replica.name: int(self.meter.load(replica)) for replica in self.plan.replicas},
            queues={route.name: self.meter.queue_length(route.name) for route in self.plan.models},
            rules={rule.name: self.meter.decided(rule.name) for rule in self.plan.rules},
            latest=self.window.latest(self.board.sums(self.window.span)),
            shadows=self.shadows.documents(),
        )

    def _watch_queues(self) -> None:
        if self._queue_timer is None:
            self._queue_timer = asyncio.get_running_loop().call_later(QUEUE_POLL_S, self._poll_queues)

    def _poll_queues(self) -> None:
        self._queue_timer = None
        self.admission.poll()
        self.limits.poll()
        self.shadows.make_way()
        if self.admission.waiting or self.limits.waiting:
            self._watch_queues()

    async def _background(self, loop: asyncio.AbstractEventLoop) -> None:
        refresh_at = 0.0
        while True:
            self.heartbeat.beat()
            if (state := self.upstreams.state) is not None:
                # Of the State of the poll before: requests that got a replica by an older one have begun by now.
                self.report.write(state.control_pid, state.sequence, self.looked_at, self.meter.traffic(self.plan))
                self.captures.current = state.capture
            if not self.leaving:
                await self.steering.poll()
            self.upstreams.poll()
            if self.keys.watches and self.keys.changed():
                self.auth.replace(self.keys.current.api_keys)
                self.auth.sessions.replace(self.keys.current)
                self.events.replace(self.keys.current)
            self.hang_detector.poll()
            self.board.refresh()
            self.access_log.flush()
            self.meter.bodies(self.inflight.memory.used_bytes)
            now = loop.time()
            if now >= self.window.due:
                self.window.keep(self.board.sums(self.window.span), now)
            if now >= refresh_at:
                refresh_at = now + REFRESH_S
                self.meter.in_progress(self.journal.refresh())
            stalled = self.inflight.stop_stalled(now, self.plan.limits.client_stall_timeout_s)
            await self.connections.poll(now, stalled, self.inflight.clients)
            if self._ends_for is not None and now > self._drain_ends:
                self.inflight.stop_all(self._ends_for)
            if os.getppid() != self._parent:  # the router's main process was killed: nothing else would end this one
                self.drain(loop)
            await asyncio.sleep(POLL_S)


def open_worker(run_dir: str) -> Worker:
    """The worker of the plan in `run_dir`. ControlError when its files cannot be read."""
    return Worker(read_plan(run_dir), read_keys(run_dir))
