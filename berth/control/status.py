"""`berth status`: the published Plan and State as a table for people, or as JSON for programs.

`berth reload`: new router workers in place of the old ones, while they serve.
"""

import asyncio
import time
from collections.abc import Iterable

import msgspec

from berth.control.supervisord_client import Supervisor
from berth.plan import ModelRoute, Plan, Replica, RunPaths, read_contract, read_plan
from berth.state import ReplicaState, ReplicaStatus, State

STALE_AFTER_S = 10.0  # control publishes every 2 s

MARKS = {
    ReplicaStatus.READY: "+",
    ReplicaStatus.FAILED: "x",
    ReplicaStatus.UNHEALTHY: "!",
    ReplicaStatus.BACKOFF: "!",
}


def status(run_dir: str, *, as_json: bool, now: float | None = None) -> tuple[str, int]:
    """The text and the exit code: 0 when every model has a replica ready, 1 when not. ControlError when nothing was
    ever started with this run directory, or its files cannot be read.
    """
    plan, state = read(RunPaths(run_dir=run_dir, data_dir=""))
    text = _json(plan, state) if as_json else table(plan, state, time.time() if now is None else now)
    serving = {r.name for r in state.replicas if r.status is ReplicaStatus.READY}
    return text, 0 if all(serving & set(model.replicas) for model in plan.models) else 1


def read(paths: RunPaths) -> tuple[Plan, State]:
    """The files of the appliance that runs, or ran last, with this run directory."""
    return read_plan(paths.run_dir), read_contract(paths.state, State.from_json)


def table(plan: Plan, state: State, now: float) -> str:
    """One block per model, one line per replica, what is wrong below it."""
    states = {replica.name: replica for replica in state.replicas}
    lines = list(_head(plan, state, now))
    for model in plan.models:
        lines += ["", _model(model)]
        for name in model.replicas:
            lines += _replica(plan.replica(name), states.get(name), now)
    lines += [
        f"GPU {gpu.index}: {_gib(gpu.memory_used_bytes)} of {_gib(gpu.memory_total_bytes)} GiB used"
        for gpu in state.gpus
    ]
    return "\n".join(lines)


def _json(plan: Plan, state: State) -> str:
    return msgspec.json.format(msgspec.json.encode({"models": plan.models, "state": state}), indent=2).decode()


def _head(plan: Plan, state: State, now: float) -> Iterable[str]:
    yield f"http://{plan.listen.host}:{plan.listen.port}" + ("  open: no BERTH_API_KEYS" if plan.open_access else "")
    age_s = now - state.published_at
    if age_s > STALE_AFTER_S:
        yield f"! control has said nothing for {age_s:.0f} s; what follows may be out of date"


def _model(model: ModelRoute) -> str:
    aliases = f" (also {', '.join(model.aliases)})" if model.aliases else ""
    return f"{model.name}{aliases}"


def _replica(replica: Replica, state: ReplicaState | None, now: float) -> list[str]:
    if state is None:
        return [f"  ? {replica.name}  not known to control yet"]
    mark = MARKS.get(state.status, ".")
    words = [f"  {mark} {replica.name}", replica.engine, state.status, f"for {_span(now - state.since)}"]
    if state.progress:
        percent = "" if state.progress.percent is None else f" {state.progress.percent:.0f} %"
        words.append(f"({state.progress.phase}{percent})")
    if state.restarts:
        words.append(f"restarts: {state.restarts}")
    lines = ["  ".join(words)]
    if state.reason:
        lines.append(f"      {state.reason}")
    return lines + [f"      > {line}" for line in state.last_lines]


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


def reload(run_dir: str) -> str:
    """What was begun, for people. ControlError when nothing runs with this run directory."""
    paths = RunPaths(run_dir=run_dir, data_dir="")
    plan, _ = read(paths)
    asyncio.run(_signal(paths))
    return (
        f"{plan.listen.workers} router worker(s) are replaced, one after the other: a new one starts, the old one "
        f"finishes its requests (at most {plan.limits.drain_timeout_s:g} s). Plan and engines stay as they are."
    )


async def _signal(paths: RunPaths) -> None:
    supervisor = Supervisor(paths.supervisord_socket)
    try:
        await supervisor.reload_router()
    finally:
        supervisor.close()
