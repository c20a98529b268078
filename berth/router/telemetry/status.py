"""The documents of /status, /health and /ready: the state that control published, by model."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import msgspec

from berth import __version__
from berth.gpu_parts import parts
from berth.notices import Notice
from berth.plan import ModelRoute, Plan, Replica
from berth.records.starts import How, start_kind
from berth.router.telemetry.quantiles import Latest, sides
from berth.state import AttachedFault, Canary, ReplicaState, ReplicaStatus, State

Orders = Mapping[str, Sequence[str]]  # by model: its replicas in fallback order, where that is not the plan's
NO_ORDERS: Orders = MappingProxyType({})
STALE_S = 10.0  # control publishes every 2 s: with an older state it has ended or hangs
_EJECTED = "ejected by the router, and control is silent"
_NOT_COMING = frozenset(
    {
        *(ReplicaStatus.ASLEEP, ReplicaStatus.STANDBY, ReplicaStatus.UNLOADED),
        *(ReplicaStatus.STOPPED, ReplicaStatus.FAILED),
    }
)
_FAULTS = frozenset(AttachedFault)
SILENT_S = 120.0  # without a state for so long, control does not recover by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the workers know, and control does not."""

    down: Collection[str] = ()  # replicas that this worker has ejected
    loads: Mapping[str, int] = field(default_factory=dict)  # replica -> its requests, of all workers
    config_errors: Mapping[str, str] = field(default_factory=dict)  # replica -> why it refuses Berth's requests
    queues: Mapping[str, int] = field(default_factory=dict)  # model -> queued requests, of all workers
    rules: Mapping[str, int] = field(default_factory=dict)  # rule -> the requests that it decided, of all workers
    latest: Latest | None = None  # responses
    shadows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by model: what each has found


def control(state: State | None, *, now: float) -> dict[str, Any]:
    """Whether control is alive, in /status and /ready: with a stale state nothing about engines is certain."""
    if state is None:
        return {"reported": False, "stale": True}
    age_s = max(0.0, now - state.published_at)
    return {"reported": True, "stale": age_s > STALE_S, "age_s": round(age_s, 1), "pid": state.control_pid}


def current(
    statuses: Mapping[str, ReplicaState], state: State | None, down: Collection[str], *, now: float
) -> Mapping[str, ReplicaState]:
    """The statuses that control has published. While control is silent, a replica that this worker has ejected does not
    count as ready: its status is what it was before.
    """
    if state is None or now - state.published_at <= STALE_S:
        return statuses
    return {
        name: replace(one, status=ReplicaStatus.UNHEALTHY, reason=_EJECTED) if name in down and _is_ready(one) else one
        for name, one in statuses.items()
    }


def status(
    plan: Plan,
    state: State | None,
    statuses: Mapping[str, ReplicaState],
    *,
    now: float,
    traffic: Traffic,
    found: Sequence[Notice] = (),
) -> dict[str, Any]:
    """The response of GET /status."""
    return {
        "version": __version__,
        "open_access": plan.open_access,
        "warnings": list(plan.warnings),
        "notices": msgspec.to_builtins(found),
        "control": control(state, now=now),
        "run_directory": {
            "path": plan.paths.run_dir,
            "free_bytes": state.run_dir_free_bytes if state else None,
            "full": state is not None and state.run_dir_full,
        },
        "models": [_model(plan, route, statuses, traffic, state, now=now) for route in plan.models],
        "rules": [one.document | {"requests": traffic.rules.get(one.name, 0)} for one in plan.rules],
        "gpus": list(_gpus(plan, state)) if state is not None else [],
        "driver": {"state": str(plan.inventory.state), "reason": plan.inventory.reason},
        "sleep_ram": {
            "held_bytes": sum(one.sleep_ram_bytes for one in statuses.values()),
            "budget_bytes": state.host.sleep_budget_bytes if state else None,
        },
    }


def _gpus(plan: Plan, state: State) -> Iterator[dict[str, Any]]:
    known = {gpu.index: gpu for gpu in plan.inventory.gpus}
    for one in state.gpus:
        gpu, used = known.get(one.index), parts(plan, state, one)
        yield {
            "index": one.index,
            "name": gpu.name if gpu else "",
            "uuid": gpu.uuid if gpu else "",
            "memory_used_bytes": one.memory_used_bytes,
            "memory_total_bytes": one.memory_total_bytes,
            "memory_by_engine": [
                {"replica": part.replica, "weights": part.weights, "kv": part.kv, "rest": part.rest}
                for part in used.engines
            ],
            "memory_foreign_bytes": used.foreign,  # None: unknown
            "utilization_percent": one.utilization_percent,
            "power_watts": one.power_watts,
            "temperature_celsius": one.temperature_celsius,
            "slowed": one.slowed,
        }


def health(plan: Plan, state: State | None, *, now: float) -> dict[str, str]:
    """The response of GET /health, always with 200: the router serves, and a restart would end what still works.

    `status` is "degraded" when control has ended or hangs: an engine that dies then is not restarted.
    """
    silent_s = now - (state.published_at if state else plan.created)
    if silent_s <= SILENT_S:
        return {"status": "ok"}
    reason = f"no state from control for {silent_s:.0f} s: requests are served, but engines are not restarted"
    return {"status": "degraded", "reason": reason}


def readiness(
    plan: Plan, statuses: Mapping[str, ReplicaState], model: str | None, orders: Orders = NO_ORDERS
) -> tuple[bool, dict[str, Any]]:
    """Whether every model (or this one) has a ready replica, and the details of each. `phase` and `percent` are those
    of the replica that is closest to ready. Models that were unloaded or put to sleep count only if they are asked for.
    """
    routes = [route for route in plan.routes if model in {None, route.name}]
    details = {}
    for route in routes:
        serving = _serving(route, statuses, orders)
        nearest = min(  # ready first, then those that make progress, then those that are about to
            (statuses[name] for name in route.replicas),
            key=lambda one: (
                *(one.status is not ReplicaStatus.READY, one.spare),
                *(one.progress is None, one.status in _NOT_COMING),
            ),
        )
        progress = nearest.progress
        details[route.name] = {
            "ready": serving is not None,
            "serving": serving,
            "phase": progress.phase if progress else str(nearest.status),
            "percent": progress.percent if progress else None,
            "replicas": {name: str(statuses[name].status) for name in route.replicas},
        }
        # of attached servers, whose status alone does not show whose turn it is; /status has the whole reason
        if faults := {name: fault for name in route.replicas if (fault := attached_fault(statuses[name]))}:
            details[route.name]["faults"] = faults
    away = () if model else [route.name for route in routes if is_away(route, statuses)]
    ready = all(detail["ready"] for name, detail in details.items() if name not in away)
    return ready, {"ready": ready, "models": details}


def is_away(route: ModelRoute, statuses: Mapping[str, ReplicaState]) -> bool:
    """No replica serves, by request."""
    return _serving(route, statuses) is None and any(statuses[name].away for name in route.replicas)


def attached_fault(state: ReplicaState) -> str:
    """Why an attached server gets no requests, without addresses: this document needs no key."""
    kind = state.reason.partition(":")[0]
    return kind if state.status is not ReplicaStatus.READY and kind in _FAULTS else ""


def _serving(route: ModelRoute, statuses: Mapping[str, ReplicaState], orders: Orders = NO_ORDERS) -> str | None:
    """The first of the model's order, as it is since a migration."""
    order = orders.get(route.base or route.name, route.replicas)
    return next((name for name in order if _is_ready(statuses[name])), None)


def _is_ready(state: ReplicaState) -> bool:
    return state.status is ReplicaStatus.READY


def _model(
    plan: Plan,
    route: ModelRoute,
    statuses: Mapping[str, ReplicaState],
    traffic: Traffic,
    state: State | None,
    *,
    now: float,
) -> dict[str, Any]:
    serving = _serving(route, statuses, state.orders if state else NO_ORDERS)
    canary = next((one for one in state.canaries if one.model == route.name), None) if state else None
    found = [one.context for name in route.replicas if (one := statuses[name].discovered) and one.context]
    return {
        "name": route.name,
        "aliases": list(route.aliases),
        "adapters": [*_adapters(route, state)],
        "source": route.source,
        "task": str(route.task),
        "context": min(found, default=route.context),
        "standby": str(route.standby),
        "load": str(route.load),
        "pin": route.name in state.pins if state else route.pin,
        "shares_memory": bool(route.room),
        "ready": serving is not None,
        "serving": serving,
        "canary": _canary(canary, route, traffic.latest) if canary else None,
        "shadow": traffic.shadows.get(route.name),  # what has been found so far
        # the requests of adapters are in their model's queue, and count there
        "queue": {"length": traffic.queues.get(route.name, 0), "size": plan.limits.queue_size},
        "latency": traffic.latest.document(route.replicas) if traffic.latest else None,
        "replicas": [_replica(plan.replica(name), statuses[name], traffic, now) for name in route.replicas],
    }


def _adapters(route: ModelRoute, state: State | None) -> Iterator[dict[str, Any]]:
    """Those of the plan, and those that were added while the model serves."""
    for one in route.adapters:
        yield {"name": one.name, "source": one.source, "rank": one.rank, "added": False}
    for added in state.adapters if state else ():
        if added.model == route.name:
            yield {"name": added.name, "source": "", "rank": None, "added": True}


def _canary(canary: Canary, route: ModelRoute, latest: Latest | None) -> dict[str, Any]:
    latency = (
        {side: latest.document(names) for side, names in sides(canary, route.replicas).items()} if latest else None
    )
    return {"replica": canary.replica, "share": canary.share, "latency": latency}


def start_of(state: ReplicaState) -> dict[str, Any]:
    phases = dict(state.start_phases)
    how = "wake" if "wake" in phases else "fork" if start_kind(phases) is How.FORKED else "load"
    return {"how": how, "seconds": round(sum(phases.values()), 2), "phases": phases}


def sleep_of(state: ReplicaState) -> dict[str, Any]:
    return {
        "cannot_sleep": state.cannot_sleep,
        "sleep_level": state.sleep_level,
        "sleep_ram_bytes": state.sleep_ram_bytes,
        "kept_asleep": {str(gpu): bytes_ for gpu, bytes_ in state.kept_asleep.items()},
    }


def _replica(replica: Replica, state: ReplicaState, traffic: Traffic, now: float) -> dict[str, Any]:
    progress, left_s = state.progress, state.left_s(now)
    if state.discovered is not None:
        replica = replica.as_discovered(state.discovered)
    return {
        "name": replica.name,
        "engine": str(replica.engine),
        "dialect": str(replica.dialect),
        "gpus": list(replica.gpus),
        "attached": replica.launch is None,
        "can_sleep": replica.sleep is not None,
        **sleep_of(state),
        "adapter_errors": dict(state.adapter_errors),
        "status": str(state.status),
        "since": state.since,
        "requested": state.requested,
        "spare": state.spare,
        "no_room": state.no_room,
        "memory_not_free": state.memory_not_free,
        "reason": state.reason or traffic.config_errors.get(replica.name, ""),
        "chosen_because": replica.reason,
        "start": start_of(state) if state.start_phases else None,
        "expected_s": state.expected_s,
        "left_s": left_s,
        "ready_at": round(now + left_s) if left_s is not None and state.begun else None,  # Unix seconds
        "progress": None if progress is None else msgspec.to_builtins(progress),
        "restarts": state.restarts,
        "flaps": state.flaps,
        "next_start_at": state.next_start_at,
        "last_lines": list(state.last_lines),
        "ranks": msgspec.to_builtins(state.ranks),
        "reachable": replica.name not in traffic.down,
        "in_flight": traffic.loads.get(replica.name, 0),
        "concurrency": replica.concurrency,
        "latency": traffic.latest.document((replica.name,)) if traffic.latest else None,
        "load": None if state.load is None else msgspec.to_builtins(state.load),
        "continues": None if state.continues is None else list(state.continues),
        "share": replica.share,
    }
