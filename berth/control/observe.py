"""Observing: supervisord's view of the processes, and the causes of new exits."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from berth.control.decisions import migrations
from berth.control.decisions.records import LIVE, Observation
from berth.control.diagnosis import Exit, Failure, FailureDiagnosis
from berth.control.probes import Prober
from berth.control.runtime import Runtime
from berth.control.supervisord_client import Snapshot
from berth.errors import ControlError
from berth.ipc import traffic
from berth.log import log


class Observer:
    """`is_stopping`: control is about to stop, so that an unreachable supervisord is not worth an error."""

    def __init__(self, runtime: Runtime, is_stopping: Callable[[], bool]) -> None:
        self._runtime = runtime
        self._is_stopping = is_stopping
        self._reachable = True
        self.held: Mapping[str, str] = {}  # replicas that wait for other boxes, and why
        gpus = runtime.plan.inventory.gpus
        self._gpu_bytes = {gpu.index: gpu.memory_total_bytes for gpu in gpus if not gpu.unified}
        self.diagnosis = FailureDiagnosis(runtime.supervisord)

    async def poll(self) -> Snapshot | None:
        """None while supervisord is unreachable, which is logged once."""
        try:
            snapshot = await self._runtime.supervisord.snapshot()
        except ControlError as error:
            if self._reachable and not self._is_stopping():
                log.error("supervisord unreachable, engine control suspended", error=str(error))
            self._reachable = False
            return None
        self._reachable = True
        return snapshot

    async def first_snapshot(self) -> Snapshot | None:
        """Waits until supervisord responds. None when control stops before."""
        while not self._is_stopping():
            snapshot = await self.poll()
            if snapshot is not None and not snapshot.shutting_down:
                return snapshot
            await self._runtime.pause(self._runtime.timing.busy_poll_s)
        return None

    async def observe(self, snapshot: Snapshot, now: float) -> Observation:
        """Diagnoses the replicas that have exited since the last snapshot."""
        exits: list[Exit] = []
        records, followers = self._runtime.records, self._runtime.followers
        for name, record in records.items():
            process = snapshot.processes.get(name)
            if process is not None and process.alive:
                records[name] = replace(record, pid=process.pid)
            elif record.status in LIVE and name in followers and not snapshot.shutting_down:
                followers[name].catch_up()
                exits.append((name, process, followers[name].recent))
        return self.observation(snapshot, await self.diagnosis.diagnose(exits, now) if exits else {})

    def observation(self, snapshot: Snapshot, failures: Mapping[str, Failure]) -> Observation:
        plan, operations = self._runtime.plan, self._runtime.operations
        kept, running = operations.kept, operations.running
        return Observation(
            records=tuple(self._runtime.records.values()),
            processes=snapshot.processes,
            failures=failures,
            routes=tuple(migrations.effective(route, kept.orders, running) for route in plan.models)
            if kept.orders or any(one.migration or one.shadow for one in running)
            else plan.models,
            restarts=plan.restarts,
            room=plan.room,
            gpu_bytes=self._gpu_bytes,
            free_room=self._runtime.memory.free_room,
            ram=self._runtime.memory.ram,
            start_times=self._runtime.times.of_sleepers(self._runtime.records.values()),
            keep=kept.keep,
            unproven=self._runtime.memory.unproven,
            not_free=self._runtime.memory.not_free,
            timing=self._runtime.timing,
            operations=running,
            drained=self._drained(),
            held=self.held,
            shutting_down=snapshot.shutting_down,
        )

    def _drained(self) -> frozenset[str]:
        """The draining replicas that no router worker uses any more."""
        plan, records = self._runtime.plan, self._runtime.records
        draining = {one.replica.name: one.drain_sequence for one in records.values() if one.drain_sequence is not None}
        if not draining:
            return frozenset()
        live = traffic.workers(plan.paths.heartbeats)
        reports = traffic.read_reports(plan.paths.traffic, len(plan.replicas), len(plan.models))
        return frozenset(
            replica.name
            for number, replica in enumerate(plan.replicas)
            if (sequence := draining.get(replica.name)) is not None
            and traffic.is_drained(reports, live, number, control_pid=os.getpid(), sequence=sequence)
        )

    async def sleeping(self, prober: Prober, snapshot: Snapshot) -> dict[str, bool]:
        """Whether they sleep, for the running replicas that report it."""
        reports: dict[str, bool] = {}
        for replica in self._runtime.plan.replicas:
            process = snapshot.processes.get(replica.name)
            if replica.sleep and replica.sleep.state_path and process is not None and process.alive:
                is_sleeping = await prober.is_sleeping(replica, replica.sleep.state_path)
                if is_sleeping is not None:
                    reports[replica.name] = is_sleeping
        return reports
