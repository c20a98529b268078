"""Runs the shadows: reads what the routers count, lets `decisions.shadows` decide, and keeps the result.

The counts so far are in the operation, which survives control. The routers count also while control is away.
"""

import os
import time

from berth.control.decisions import shadows
from berth.control.decisions.records import GIVEN_UP, Observation
from berth.control.operations.store import NOTHING
from berth.control.operations.targets import Around
from berth.control.runtime import Runtime
from berth.host import cgroup
from berth.ipc import shadow_counts, traffic
from berth.ipc.operations import Action, Change, Operation
from berth.ipc.shadow import Counts, Shadow, ShadowPhase
from berth.log import log


class Shadower:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ended: dict[str, int] = {}  # by operation: the first State without it

    def follow_up(self, observation: Observation, sequence: int) -> None:
        """`sequence`: of the last State that was published."""
        running = [(one, one.shadow) for one in observation.operations if one.shadow is not None]
        migrating = [(one, one.migration) for one in observation.operations if one.migration is not None]
        counts = shadow_counts.read(self._runtime.plan) if running or migrating else {}
        for operation, migration in migrating:
            after = shadows.counted(migration, counts.get(operation.model, ()))
            if after != migration:
                self._runtime.operations.progressed(operation, after)
        for operation, shadow in running:
            self.advance(operation, shadow, counts.get(operation.model, ()), sequence)

    def advance(self, operation: Operation, shadow: Shadow, counts: Counts, sequence: int) -> None:
        records, now = self._runtime.records, time.monotonic()
        route = next(one for one in self._runtime.plan.models if one.name == operation.model)
        others = [records[name] for name in route.replicas if name != shadow.candidate]
        if shadow.phase is ShadowPhase.ENDING:
            self._ended.setdefault(operation.id, sequence + 1)
        view = shadows.View(
            candidate=records[shadow.candidate],
            starts=operation.starts.get(shadow.candidate, 0),
            counts=counts,
            is_last=all(one.status in GIVEN_UP for one in others),
            aware=shadow.phase is ShadowPhase.ENDING and self._are_aware(self._ended[operation.id]),
        )
        after = shadows.advance(shadow, view, now)
        if after == shadow:
            return
        self._runtime.operations.shadowed(operation, after)
        if after.phase is ShadowPhase.ENDING:  # the next State is the first without it
            self._ended.setdefault(operation.id, sequence + 1)
        if after.phase is ShadowPhase.OVER:
            self._ended.pop(operation.id, None)
        if after.phase is not shadow.phase:
            shown = {"shadow": operation.id, "model": operation.model, "candidate": after.candidate}
            write = log.warning if after.failed else log.info
            write(f"shadow {after.phase}", **shown, **({"reason": after.reason} if after.reason else {}))
            self._runtime.events.shadow(operation, after)
            self._runtime.changed.set()

    def _are_aware(self, sequence: int) -> bool:
        """The router's workers."""
        plan = self._runtime.plan
        reports = traffic.read_reports(plan.paths.traffic, len(plan.replicas), len(plan.models))
        live = traffic.workers(plan.paths.heartbeats)
        return traffic.all_act_by(reports, live, control_pid=os.getpid(), sequence=sequence)

    def around(self, change: Change) -> Around:
        """What the plan of a shadow depends on, read now; of other changes nothing."""
        if change.action is not Action.SHADOW:
            return NOTHING
        plan = self._runtime.plan
        model = next((one.name for one in plan.models if change.model in (one.name, *one.aliases)), "")
        counts = shadow_counts.read(plan).get(model, ())
        return Around(ram_free_bytes=cgroup.available_memory(), counts=counts)
