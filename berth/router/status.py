"""The JSON of /status and /ready: what control published, laid out by model."""

from collections.abc import Collection, Mapping
from typing import Any

from berth import __version__
from berth.plan import ModelRoute, Plan, Replica
from berth.state import GpuState, ReplicaState, ReplicaStatus, State

STALE_S = 10.0  # control publishes every 2 s: older than this, it is gone or hangs


def status(
    plan: Plan, state: State | None, statuses: Mapping[str, ReplicaState], *, now: float, down: Collection[str] = ()
) -> dict[str, Any]:
    """The answer of GET /status. `down` are the replicas that this worker could not reach a moment ago."""
    return {
        "version": __version__,
        "open_access": plan.open_access,
        "warnings": list(plan.warnings),
        "control": _control(state, now),
        "models": [_model(plan, route, statuses, down) for route in plan.models],
        "gpus": [_gpu(plan, gpu) for gpu in state.gpus] if state else [],
        "driver": {"state": str(plan.inventory.state), "reason": plan.inventory.reason},
    }


def readiness(plan: Plan, statuses: Mapping[str, ReplicaState], model: str | None) -> tuple[bool, dict[str, Any]]:
    """Whether every model (or this one) has a replica that takes requests, and the detail of each."""
    routes = [route for route in plan.models if model in {None, route.name}]
    details = {route.name: _readiness(route, statuses) for route in routes}
    ready = all(detail["ready"] for detail in details.values())
    return ready, {"ready": ready, "models": details}


def _readiness(route: ModelRoute, statuses: Mapping[str, ReplicaState]) -> dict[str, Any]:
    serving = _serving(route, statuses)
    replicas = {name: str(statuses[name].status) for name in route.replicas}
    return {"ready": serving is not None, "serving": serving, "replicas": replicas}


def _serving(route: ModelRoute, statuses: Mapping[str, ReplicaState]) -> str | None:
    return next((name for name in route.replicas if statuses[name].status is ReplicaStatus.READY), None)


def _control(state: State | None, now: float) -> dict[str, Any]:
    if state is None:
        return {"reported": False, "stale": True}
    age_s = max(0.0, now - state.published_at)
    return {"reported": True, "stale": age_s > STALE_S, "age_s": round(age_s, 1), "pid": state.control_pid}


def _model(
    plan: Plan, route: ModelRoute, statuses: Mapping[str, ReplicaState], down: Collection[str]
) -> dict[str, Any]:
    serving = _serving(route, statuses)
    return {
        "name": route.name,
        "aliases": list(route.aliases),
        "source": route.source,
        "task": str(route.task),
        "context": route.context,
        "standby": str(route.standby),
        "ready": serving is not None,
        "serving": serving,
        "replicas": [
            _replica(plan.replica(name), statuses[name], reachable=name not in down) for name in route.replicas
        ],
    }


def _replica(replica: Replica, state: ReplicaState, *, reachable: bool) -> dict[str, Any]:
    progress = state.progress
    return {
        "name": replica.name,
        "engine": str(replica.engine),
        "dialect": str(replica.dialect),
        "gpus": list(replica.gpus),
        "attached": replica.launch is None,
        "status": str(state.status),
        "since": state.since,
        "reason": state.reason,
        "chosen_because": replica.reason,
        "progress": {"phase": progress.phase, "percent": progress.percent} if progress else None,
        "restarts": state.restarts,
        "next_start_at": state.next_start_at,
        "last_lines": list(state.last_lines),
        "reachable": reachable,
    }


def _gpu(plan: Plan, state: GpuState) -> dict[str, Any]:
    known = {gpu.index: gpu for gpu in plan.inventory.gpus}
    gpu = known.get(state.index)
    return {
        "index": state.index,
        "name": gpu.name if gpu else "",
        "uuid": gpu.uuid if gpu else "",
        "memory_used_bytes": state.memory_used_bytes,
        "memory_total_bytes": state.memory_total_bytes,
        "utilization_percent": state.utilization_percent,
    }
