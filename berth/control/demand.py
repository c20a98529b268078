"""What router workers report of the models with `load: on_request`: waiting requests, and when they were last used."""

import time
from collections.abc import Iterable, Mapping

from berth.control.decisions.eviction import Demand
from berth.control.decisions.records import Record
from berth.ipc import traffic
from berth.plan import Load, Plan
from berth.state import ReplicaStatus


class DemandWatch:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._numbers = {replica.name: number for number, replica in enumerate(plan.replicas)}
        self._routes = [(n, route) for n, route in enumerate(plan.models) if route.load is Load.ON_REQUEST]
        now = time.monotonic()
        self._last_used_at = {route.name: now for _, route in self._routes}
        self._attempts: dict[str, int] = {}  # so far

    @property
    def watches(self) -> bool:
        return bool(self._routes)

    @property
    def last_used_at(self) -> Mapping[str, float]:
        """By model, on the monotonic clock."""
        return self._last_used_at

    def expires(self, records: Iterable[Record], keep: Mapping[str, float | None]) -> Mapping[str, float]:
        """When the models that are ready will be unloaded if no request comes, on the monotonic clock."""
        since = {one.replica.name: one.since for one in records if one.status is ReplicaStatus.READY}
        found = {}
        for _, route in self._routes:
            idle_s = keep.get(route.name, route.idle_unload_s)
            ready = [since[name] for name in route.replicas if name in since]
            if ready and idle_s is not None:
                found[route.name] = max(self._last_used_at[route.name], *ready) + idle_s
        return found

    def read(self, now: float) -> Mapping[str, Demand]:
        """By model. Nothing is read for plans without such models."""
        if not self._routes:
            return {}
        plan = self._plan
        reports = traffic.read_reports(plan.paths.traffic, len(plan.replicas), len(plan.models))
        live = [reports[row] for row in traffic.workers(plan.paths.heartbeats) if row < len(reports)]
        found = {}
        for number, route in self._routes:
            waiting = sum(report.waiting[number] for report in live)
            own = [self._numbers[name] for name in route.replicas]
            in_flight = sum(report.loads[one] for report in live for one in own)
            attempts = sum(report.attempts[one] for report in reports for one in own)
            if waiting or in_flight or attempts != self._attempts.get(route.name, attempts):
                self._last_used_at[route.name] = now
            self._attempts[route.name] = attempts
            found[route.name] = Demand(waiting=waiting, last_used_at=self._last_used_at[route.name])
        return found
