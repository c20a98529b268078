"""What one router worker holds, and what it does beside answering: reading the State, and coming to an end in time."""

import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from berth.log import log
from berth.plan import Keys, Plan
from berth.router.auth import Gate
from berth.router.catalog import Catalog
from berth.router.flights import Flights, StopReason
from berth.router.metrics import Meter, layout
from berth.router.proxy import Proxy
from berth.router.scoreboard import Scoreboard
from berth.router.upstreams import Upstreams

POLL_S = 0.2


class Worker:
    def __init__(self, plan: Plan, keys: Keys) -> None:
        self.plan = plan
        self.gate = Gate(keys.api_key_digests)
        self.catalog = Catalog(plan)
        self.upstreams = Upstreams(plan, keys)
        self.board = Scoreboard(plan.paths.scoreboard, layout(plan))
        self.meter = Meter(self.board)
        self.flights = Flights()
        self.proxy = Proxy(self.upstreams, plan.limits, self.meter)
        self._parent = os.getppid()
        self._drain_ends = math.inf  # on the loop's clock

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it the State is followed, and SIGTERM leads to an end within BERTH_DRAIN_TIMEOUT."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.drain, loop)
        self.upstreams.poll()
        async with asyncio.TaskGroup() as group:
            background = group.create_task(self._background(loop))
            yield
            background.cancel()
        self.upstreams.close()
        self.board.close()

    def drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """No new connections; requests in flight may finish until BERTH_DRAIN_TIMEOUT is over.

        Granian has the same way to stop for SIGINT as for SIGTERM, which is ours here: it must be told by that.
        """
        if self._drain_ends == math.inf:
            self._drain_ends = loop.time() + self.plan.limits.drain_timeout_s
            log.info("draining", worker=os.getpid(), in_flight=len(self.flights))
            os.kill(os.getpid(), signal.SIGINT)

    async def _background(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            self.upstreams.poll()
            self.flights.stop_stalled(self.plan.limits.client_stall_timeout_s)
            if loop.time() > self._drain_ends:
                self.flights.stop_all(StopReason.DRAIN)
            if os.getppid() != self._parent:  # the router's main process was killed: nobody else would end us
                self.drain(loop)


def open_worker(run_dir: str) -> Worker:
    """The worker of the plan in `run_dir`. OSError or ValueError when its files cannot be read."""
    plan = Plan.from_json(Path(run_dir, "plan.json").read_bytes())
    keys = Keys.from_json(plan.paths.keys.read_bytes())
    return Worker(plan, keys)
