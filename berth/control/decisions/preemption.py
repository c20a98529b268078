"""When the requests of a model that makes room have had their time, pure.

It drains for `drain_timeout`, then the router's workers give up what is left: what can be continued waits for the model
in its queue, and loads it again in its turn. That is only done as long as another model waits for the room.
"""

from berth.control.decisions import claims, eviction, requests
from berth.control.decisions.records import Observation, Record
from berth.ipc.operations import Action
from berth.state import ReplicaStatus

PREEMPTED = "its last requests were preempted"  # the end of the reason of such a replica
_LEAVES = frozenset({Action.UNLOAD, Action.SLEEP})


def preempted(observation: Observation, now: float) -> tuple[Record, ...]:
    """The replicas whose requests are given up now."""
    if not observation.room or all(one.status is not ReplicaStatus.DRAINING for one in observation.records):
        return ()
    return tuple(
        record
        for route in observation.routes
        if route.room and route.drain_timeout_s
        for record in claims.records_of(route, observation)
        if record.status is ReplicaStatus.DRAINING
        and now - record.since >= route.drain_timeout_s
        and record.replica.name not in observation.drained
        and (operation := requests.operation_of(record, observation.operations)) is not None
        and operation.action in _LEAVES
        and eviction.is_awaited(record.replica.name, observation)
    )
