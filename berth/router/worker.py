"""What one router worker holds, and what it does beside answering: reading the State, and coming to an end in time."""

import asyncio
import gc
import itertools
import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from berth.dialects.references import Fetching
from berth.log import log
from berth.plan import Keys, Plan, Standby, read_keys, read_plan
from berth.router.balancing.model_catalog import ModelCatalog
from berth.router.balancing.upstreams import Upstreams
from berth.router.exchange.addresses import Addresses
from berth.router.exchange.auth import Authenticator
from berth.router.exchange.headers import RequestIds
from berth.router.exchange.inflight import InflightRequests, StopReason
from berth.router.forwarding.proxy import Proxy
from berth.router.handover import LEAVE_S, prefer_newest
from berth.router.response_store import ResponseFiles
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.shared_counters import Scoreboard

TICK_S = 0.025
TICKS_PER_POLL = 8
GC_THRESHOLD = 10_000  # objects made and not ended since the last look; 700 is the default


class Worker:
    def __init__(self, plan: Plan, keys: Keys) -> None:
        self.plan = plan
        self.gate = Authenticator(keys.api_key_digests)
        self.catalog = ModelCatalog(plan)
        self.upstreams = Upstreams(plan, keys)
        self.board = Scoreboard(plan.paths.scoreboard, layout(plan))
        self.meter = Meter(self.board)
        self.flights = InflightRequests()
        hosts = None if plan.fetch_hosts is None else frozenset(plan.fetch_hosts)
        self.fetching = Fetching(offline=plan.offline, hosts=hosts)
        self.addresses = Addresses()
        self.request_ids = RequestIds()
        self.proxy = Proxy(plan, self.upstreams, self.meter, self.request_ids)
        self.responses = ResponseFiles(
            Path(plan.paths.run_dir, "responses"),
            writers=2 * plan.listen.workers + 1,  # a worker may start before the one that it replaces has ended
            open_access=plan.open_access,
        )
        self.with_affinity = _with_affinity(plan)
        self._parent = os.getppid()
        self._drain_ends = math.inf  # on the loop's clock
        self.leaving = False  # True: another worker has taken its place, and clients are asked to go there

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it the State is followed, and SIGTERM leads to an end within BERTH_DRAIN_TIMEOUT."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.drain, loop)
        self.upstreams.poll()
        _tune_garbage_collection()
        async with asyncio.TaskGroup() as group:
            background = group.create_task(self._background(loop, group))
            yield
            background.cancel()
        self.proxy.flush_log()
        self.upstreams.close()
        self.board.close()

    def drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """No new connections; requests in flight may finish until BERTH_DRAIN_TIMEOUT is over.

        Granian has the same way to stop for SIGINT as for SIGTERM, which is ours here: it must be told by that.
        """
        if self._drain_ends == math.inf:
            self._drain_ends = loop.time() + self.plan.limits.drain_timeout_s
            self.leaving = self._is_replaced()
            log.info("draining", worker=os.getpid(), in_flight=len(self.flights), replaced=self.leaving)
            if self.leaving:
                prefer_newest(self.plan.listen.port, self.plan.listen.workers)
            loop.call_later(LEAVE_S if self.leaving else 0, os.kill, os.getpid(), signal.SIGINT)

    def _is_replaced(self) -> bool:
        """More workers live than there should be. When Berth is stopped, nobody would take what comes meanwhile."""
        self.board.refresh()
        return len(self.board.live) > self.plan.listen.workers

    async def _background(self, loop: asyncio.AbstractEventLoop, group: asyncio.TaskGroup) -> None:
        for turn in itertools.count():
            await asyncio.sleep(TICK_S)
            self.flights.look_after(group, loop.time())
            self.proxy.admission.look()
            if turn % TICKS_PER_POLL == 0:
                self._poll(loop)

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        self.upstreams.poll()
        self.board.refresh()
        self.proxy.flush_log()
        now = loop.time()
        self.flights.stop_stalled(now, self.plan.limits.client_stall_timeout_s)
        if now > self._drain_ends:
            self.flights.stop_all(StopReason.DRAIN)
        if os.getppid() != self._parent:  # the router's main process was killed: nobody else would end us
            self.drain(loop)


def _tune_garbage_collection() -> None:
    """What is there at the start stays to the end: it need not be looked at again and again. A request makes no cycles,
    so looking is seldom worth its time; at the default threshold it took a twentieth of it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)


def _with_affinity(plan: Plan) -> frozenset[str]:
    """The models whose conversations stay with one of several engines."""
    several = (route for route in plan.routes if route.standby is Standby.HOT and len(route.replicas) > 1)
    return frozenset(route.name for route in several) if plan.affinity else frozenset()


def open_worker(run_dir: str) -> Worker:
    """The worker of the plan in `run_dir`. ControlError when its files cannot be read."""
    return Worker(read_plan(run_dir), read_keys(run_dir))
