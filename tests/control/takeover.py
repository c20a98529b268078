"""A control that ends and the one that comes after it, by the files that the first one leaves."""

import tempfile
from collections.abc import Mapping, Sequence

from berth.control.decisions.records import Record
from berth.control.operations.event_ring import EventRing
from berth.control.operations.store import Operations
from berth.control.publish import ControlState, Publisher, Seen, control_state, read_previous
from berth.control.recovery import restore
from berth.control.supervisord_client import Process
from berth.plan import ModelRoute, RunPaths
from berth.state import ReplicaStatus


def records_of_the_next(
    records: Mapping[str, Record],
    operations: Operations,
    processes: Mapping[str, Process],
    routes: Sequence[ModelRoute],
    now: float,
) -> tuple[dict[str, Record], Operations]:
    """And its operations. Engines that sleep say so."""
    known = tuple(records.values())
    with tempfile.TemporaryDirectory() as folder:
        paths = RunPaths(run_dir=folder, data_dir=folder)
        publisher = Publisher(paths)
        before = ControlState(supervisord="s", kept=operations.kept)
        publisher.publish(known, Seen(), control_state(known, {}, before), always=True)
        state, control = read_previous(paths, "s")
    asleep = {
        name: one.status is ReplicaStatus.ASLEEP
        for name, one in records.items()
        if one.replica.sleep and one.status in (ReplicaStatus.ASLEEP, ReplicaStatus.READY)
    }
    fresh = tuple(Record(replica=one.replica, status=ReplicaStatus.UNLOADED, since=now) for one in known)
    restored = restore(
        fresh, state, control, processes, asleep, routes=tuple(routes), now=now, offset_s=publisher.offset_s
    )
    after = Operations(EventRing(), wall=operations._wall)
    after.resume(control.kept)
    return {one.replica.name: one for one in restored}, after


def same(before: Record, after: Record) -> bool:
    """What decides about it is known to the next control too. (The times go through another clock.)"""
    kept = ("status", "goal", "starts", "history", "cannot_sleep", "released", "gpu", "wakes")
    return [getattr(before, name) for name in kept] == [getattr(after, name) for name in kept]
