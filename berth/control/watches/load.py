"""Asks the engines that serve how busy they are. A question without an answer is no failure: the figure goes away."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from berth.control.decisions.records import Record
from berth.control.probes import Prober
from berth.control.runtime import Runtime
from berth.dialects.registry import dialect_of
from berth.ipc import traffic
from berth.state import ReplicaStatus

LOOKED_S = 60.0  # for so long after a look, the figures are renewed more often
_SERVING = frozenset({ReplicaStatus.READY, ReplicaStatus.DRAINING})
_NOT_THERE = frozenset({401, 403, 404, 405, 501})  # a page that is missing, switched off, or not for this key


class LoadWatch:
    """A page that a server does not have is asked for again when its replica becomes ready the next time."""

    def __init__(self, runtime: Runtime, prober: Prober) -> None:
        self._runtime = runtime
        self._prober = prober
        self._missing: dict[tuple[str, str], float] = {}  # replica and path -> the `since` in which it was missing

    async def run(self, is_stopping: Callable[[], bool]) -> None:
        """Until control stops."""
        timing = self._runtime.timing
        while not is_stopping():
            records = [
                record
                for record in self._runtime.records.values()
                if record.status in _SERVING and not record.replica.follows
            ]
            async with asyncio.TaskGroup() as group:
                for record in records:
                    group.create_task(self._ask(record))
            await asyncio.sleep(timing.load_s if self.is_seen() else timing.unseen_load_s)

    async def _ask(self, record: Record) -> None:
        replica, records = record.replica, self._runtime.records
        dialect, pages, failures = dialect_of(replica), {}, 0
        paths = [path for path in dialect.load_paths if self._missing.get((replica.name, path)) != record.since]
        for path in paths:
            response = await self._prober.request(replica, "GET", path, None, dialect.load_timeout_s)
            if isinstance(response, str):
                failures = 1
            elif response.ok:
                pages[path] = response.body
            elif response.status in _NOT_THERE:
                self._missing[replica.name, path] = record.since
            else:
                failures = 1
        load = dialect.load(pages, record.load) if pages else None
        if load is not None:
            load = replace(load, measured_at=time.time())
        latest = records[replica.name]
        if (latest.status, latest.since) == (record.status, record.since) and paths:
            records[replica.name] = replace(latest, load=load, load_failures=latest.load_failures + failures)

    def is_seen(self) -> bool:
        """Whether somebody has looked at a page with the figures lately."""
        plan = self._runtime.plan
        reports = traffic.read_reports(plan.paths.traffic, len(plan.replicas), len(plan.models))
        return time.monotonic() - max((report.looked_at for report in reports), default=0) < LOOKED_S
