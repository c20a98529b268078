"""Which models with `load: on_request` are to be loaded and unloaded now, pure.

1. A request that waits for a model that is not loaded loads it. What operators request comes first: while one of their
   operations runs, nothing is decided for its model.
2. A model without requests for `idle_unload` is unloaded, unless it is pinned. The time counts from the last end of a
   request, and never during a load.
3. A request that comes while it drains for that reason cancels the unload.
4. A model whose engines have failed permanently is not loaded again by requests: `berth load` gives it another start.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from berth.control.decisions.records import Observation, Record
from berth.operations import Action, Operation
from berth.plan import Load, ModelRoute
from berth.state import ReplicaStatus

_S = ReplicaStatus

BY_REQUEST = "a request"
BY_IDLE = "idle_unload"
_NOT_COMING = frozenset({_S.UNLOADED, _S.ASLEEP, _S.STANDBY, _S.FAILED, _S.STOPPED})


class Decision(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"
    CANCEL = "cancel"  # the unload that is running


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of one model."""

    waiting: int  # requests without a replica
    last_used_at: float  # on time.monotonic()'s clock: now, while it has requests


def decide(
    observation: Observation, demands: Mapping[str, Demand], pinned: Collection[str], now: float
) -> Iterator[tuple[Decision, str]]:
    """The models, with what is to happen to them."""
    if observation.shutting_down:
        return
    running = {operation.model: operation for operation in observation.operations}
    for route in observation.routes:
        if route.load is Load.ON_REQUEST and (demand := demands.get(route.name)) is not None:
            records = [one for one in observation.records if one.replica.name in route.replicas and not one.attached]
            found = of_model(route, records, demand, running.get(route.name), now)
            if found is not None and not (found is Decision.UNLOAD and route.name in pinned):
                yield found, route.name


def of_model(
    route: ModelRoute, records: Collection[Record], demand: Demand, operation: Operation | None, now: float
) -> Decision | None:
    if operation is not None:
        is_idle = operation.action is Action.UNLOAD and operation.by == BY_IDLE
        returns = is_idle and demand.waiting and any(record.status is _S.DRAINING for record in records)
        return Decision.CANCEL if returns else None
    if demand.waiting:
        loadable = any(
            one.status is _S.UNLOADED or (one.status is _S.ASLEEP and one.goal is not None) for one in records
        )
        return Decision.LOAD if loadable and all(one.status in _NOT_COMING for one in records) else None
    ready = [record for record in records if record.status is _S.READY]
    if route.idle_unload_s is None or not ready:
        return None
    idle_since = max(demand.last_used_at, *(record.since for record in ready))
    return Decision.UNLOAD if now - idle_since >= route.idle_unload_s else None
