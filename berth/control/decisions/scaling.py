"""Scaling a model: how many of its replicas are loaded. Their places are fixed at boot. Pure."""

from collections.abc import Sequence

from berth.control.decisions.records import COMING, GIVEN_UP, Record
from berth.ipc.operations import Action, Operation
from berth.state import ReplicaStatus


def leaves(record: Record, operation: Operation) -> bool:
    """The operation unloads this replica of its model."""
    chooses = operation.action in (Action.SCALE, Action.LEASE)
    return operation.action is Action.UNLOAD or (chooses and record.replica.name not in operation.kept)


def kept(records: Sequence[Record], count: int) -> tuple[str, ...]:
    """The replicas that are to be loaded, in their order. Those that serve come first, then those that will, then those
    that do not run, and at last those that were given up.
    """

    def preference(record: Record) -> int:
        order = (record.status is ReplicaStatus.READY, record.status in COMING, record.status not in GIVEN_UP, True)
        return order.index(True)

    chosen = {record.replica.name for record in sorted(records, key=preference)[:count]}
    return tuple(record.replica.name for record in records if record.replica.name in chosen)
