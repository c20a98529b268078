"""What the parts of control share: the plan, the clients of supervisord and NVML, and the records of the replicas."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.control.decisions.records import Record, Timing
from berth.control.demand import DemandWatch
from berth.control.logs.engine_logs import Follower
from berth.control.memory.ledger import Ledger
from berth.control.memory.watch import MemoryWatch
from berth.control.operations.event_ring import EventRing
from berth.control.operations.store import Operations
from berth.control.start_times import StartTimes
from berth.control.supervisord_client import SupervisordClient
from berth.host.gpu_usage import Gpus
from berth.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The status in a record changes only by transitions, which the control loop executes. Background tasks add what
    they find out about the current start.
    """

    plan: Plan
    timing: Timing
    supervisord: SupervisordClient
    gpus: Gpus
    records: dict[str, Record]  # by replica, in the plan's order; empty until recovery
    followers: Mapping[str, Follower]  # by replica; attached ones have none
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    events: EventRing = field(default_factory=EventRing)
    ledger: Ledger = field(default_factory=Ledger)
    demand: DemandWatch = field(init=False)
    times: StartTimes = field(init=False)
    operations: Operations = field(init=False)
    memory: MemoryWatch = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", StartTimes(self.plan.paths.data_dir))
        object.__setattr__(self, "demand", DemandWatch(self.plan))
        operations = Operations(self.events, self.times.expected_s, self.demand.last_used_at)
        object.__setattr__(self, "operations", operations)
        memory = MemoryWatch(self.plan, self.gpus, self.timing, self.records, self.changed.set)
        object.__setattr__(self, "memory", memory)

    async def pause(self, seconds: float) -> None:
        """Of the control loop. Ends early when something has changed."""
        timer = asyncio.get_running_loop().call_later(seconds, self.changed.set)
        try:
            await self.changed.wait()
        finally:
            timer.cancel()
        self.changed.clear()
