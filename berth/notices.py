"""What needs an operator's attention, the most urgent first. Pure: from the plan, the State, and what workers know.

/status has it, and so everything that people look at shows the same. When all is well there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from berth.plan import ModelRoute, Plan
from berth.state import ReplicaState, ReplicaStatus, State
from berth.units import size

_S: Final = ReplicaStatus
_COMES: Final = frozenset({_S.WAITING, _S.STARTING, _S.WAKING, _S.DRAINING, _S.STOPPING})
_FULL_QUEUE: Final = 0.9  # of its size
_MANY_RESTARTS: Final = 3


class NoticeKind(StrEnum):
    """The most urgent first."""

    CONTROL_SILENT = "control_silent"
    MODEL_DOWN = "model_down"
    REPLICA_FAILED = "replica_failed"
    REPLICA_LOOPING = "replica_looping"
    QUEUE_FULL = "queue_full"
    DISK_LOW = "disk_low"
    ENGINE_REJECTS = "engine_rejects"
    WARNING = "warning"  # of the plan, also that there are no keys


_URGENT: Final = frozenset(
    {NoticeKind.CONTROL_SILENT, NoticeKind.MODEL_DOWN, NoticeKind.REPLICA_FAILED, NoticeKind.DISK_LOW}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    kind: NoticeKind
    text: str
    model: str = ""
    replica: str = ""
    since: float | None = None  # Unix seconds
    advice: str = ""  # the next step

    @property
    def urgent(self) -> bool:
        return self.kind in _URGENT


def notices(
    plan: Plan,
    state: State | None,
    statuses: Mapping[str, ReplicaState],
    *,
    silent_s: float | None,
    queues: Mapping[str, int],
    config_errors: Mapping[str, str],
) -> list[Notice]:
    """`silent_s`: how long control has not published, None while it does; `queues`: queued requests by model;
    `config_errors`: why a replica rejects Berth's requests.
    """
    found = [one for route in plan.models for one in _of_model(plan, route, statuses, queues)]
    found += [
        Notice(kind=NoticeKind.ENGINE_REJECTS, model=plan.replica(name).model, replica=name, text=reason)
        for name, reason in config_errors.items()
    ]
    if silent_s is not None:
        text = f"control has published nothing for {silent_s:.0f} s: engines that fail are not restarted"
        found.append(Notice(kind=NoticeKind.CONTROL_SILENT, text=text, advice="See the container's log."))
    if state is not None and state.run_dir_full:
        text = f"the run directory {plan.paths.run_dir} has {size(state.run_dir_free_bytes or 0)} left"
        found.append(Notice(kind=NoticeKind.DISK_LOW, text=text, advice="Free some space there."))
    found += [Notice(kind=NoticeKind.WARNING, text=warning) for warning in plan.warnings]
    order = list(NoticeKind)
    return sorted(found, key=lambda one: order.index(one.kind))


def _of_model(
    plan: Plan, route: ModelRoute, statuses: Mapping[str, ReplicaState], queues: Mapping[str, int]
) -> Sequence[Notice]:
    """A model is down if nothing serves it, nothing is about to, and no one has requested that."""
    states = [statuses[name] for name in route.replicas]
    found = [notice for one in states if (notice := of_replica(one, route)) is not None]
    if found and not any(one.status in (_S.READY, *_COMES) or one.away for one in states):
        worst = statuses[found[0].replica]
        text = "is served by no engine" + (f": {worst.reason}" if worst.reason else "")
        found[0] = replace(found[0], kind=NoticeKind.MODEL_DOWN, text=text)
    queued, most = queues.get(route.name, 0), plan.limits.queue_size
    if queued >= _FULL_QUEUE * most:
        text = f"has {queued} of at most {most} requests in its queue"
        found.append(Notice(kind=NoticeKind.QUEUE_FULL, model=route.name, text=text))
    return found


def of_replica(state: ReplicaState, route: ModelRoute) -> Notice | None:
    """None for one that is well, or that is about to be."""
    kind, advice, reason = NoticeKind.REPLICA_LOOPING, "", f": {state.reason}" if state.reason else ""
    match state.status:
        case _S.FAILED:
            kind, text = NoticeKind.REPLICA_FAILED, f"has failed{reason}"
            advice = f"It is not started again by itself: `berth load {route.name}`, after `berth logs {state.name}`."
        case _S.BACKOFF:
            text = f"has failed, and is restarted after a while{reason}"
        case _S.UNHEALTHY:
            text = f"is unhealthy{reason}"
        case _S.STARTING if state.restarts >= _MANY_RESTARTS:
            text = f"starts again, after {state.restarts} restarts{reason}"
        case _:
            return None
    return Notice(kind=kind, model=route.name, replica=state.name, text=text, since=state.since, advice=advice)
