"""`standby: warm`, pure: who sleeps, who is woken, and when a failed replica gives way instead of starting again.

1. At first all engines after the first are loaded, one after the other, and put to sleep; then the first starts.
2. One that fails, in whatever way, gives way as soon as another one of its model sleeps: it becomes a cold standby. The
   first of those asleep is woken when the failed one has left its GPUs.
3. When nobody sleeps any more, all is as with `standby: cold`: who fails is started again, and another one takes its
   place only when it has failed for good, the first in the order. Those that gave way can be that too.
4. One that cannot be put to sleep, or dies before it sleeps or in its sleep, is a cold standby from then on: it cannot
   be loaded while another one has the GPU memory. One that cannot be woken is started again like any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from berth.control.records import Observation, Record, Transition
from berth.control.supervisord_client import Process
from berth.plan import Standby
from berth.state import ReplicaStatus

_S = ReplicaStatus

_COMING = frozenset({_S.WAITING, _S.STARTING, _S.WAKING, _S.READY, _S.UNHEALTHY, _S.BACKOFF, _S.STOPPING})
_SETTLING = frozenset({_S.WAITING, _S.STARTING, _S.FALLING_ASLEEP, _S.STOPPING})
_OUT = frozenset({_S.STANDBY, _S.ASLEEP, _S.FAILED})


def order(record: Record, view: Observation) -> tuple[Record, ...]:
    """The replicas of its model in their order, where that has a warm standby; else ()."""
    name = record.replica.name
    route = next((one for one in view.routes if one.standby is Standby.WARM and name in one.replicas), None)
    known = {one.replica.name: one for one in view.records}
    return tuple(known[other] for other in route.replicas) if route else ()


def is_to_sleep(record: Record, view: Observation) -> bool:
    """A replica before it serves, or is going to."""
    before = _before(record, order(record, view))
    return record.replica.sleep is not None and any(other.status in _COMING for other in before)


def is_held_back(record: Record, view: Observation) -> bool:
    """One that waits starts after those behind it in the order have been put to sleep, or could not be."""
    models = order(record, view)
    behind = models[len(_before(record, models)) + 1 :]
    return any(other.status in _SETTLING for other in behind)


def gives_way(record: Record, view: Observation) -> bool:
    """Whether a failed replica becomes a cold standby: it was to sleep, or one that sleeps can take its place."""
    return is_to_sleep(record, view) or any(
        other is not record and sleeps(other, view.processes) for other in order(record, view)
    )


def yielding(record: Record, move: Transition, view: Observation) -> Transition:
    """The move after a failure: not into a pause before the next start, where another one takes its place."""
    if move.to is not _S.BACKOFF or not gives_way(record, view):
        return move
    return replace(move, to=_S.STANDBY, next_start_at=None)


def wakers(view: Observation) -> Iterator[Record]:
    """Those asleep that are to serve: of each model the first, when nobody of it serves or is going to."""
    for record in view.records:
        if sleeps(record, view.processes) and _is_next(record, order(record, view), _S.ASLEEP):
            yield record


def stand_in(record: Record, view: Observation) -> Transition | None:
    """A cold standby of a warm order starts when nobody of it is left, awake or asleep, and all have left the GPUs."""
    models = order(record, view)
    others = [other for other in models if other is not record]
    if any(other.status is _S.ASLEEP or not other.clear for other in others):
        return None
    if not record.clear or not _is_next(record, models, _S.STANDBY):
        return None
    return Transition(name=record.replica.name, to=_S.WAITING, origin=took_over(record, models))


def took_over(record: Record, models: Sequence[Record]) -> str:
    """From whom, and why: from the one that came to its end last."""
    others = [other for other in models if other is not record and other.status in (_S.FAILED, _S.STANDBY)]
    last = max(others, key=lambda other: other.since, default=None)
    return f"took over from {last.replica.name}, which failed: {last.reason}" if last and last.reason else ""


def sleeps(record: Record, processes: Mapping[str, Process]) -> bool:
    """It is asleep and has not died of it since the last look."""
    process = processes.get(record.replica.name)
    return record.status is _S.ASLEEP and process is not None and process.alive


def _is_next(record: Record, models: Sequence[Record], status: ReplicaStatus) -> bool:
    """The first with this status, of a model of which nobody serves or is going to."""
    first = next((other for other in models if other.status is status), None)
    return first is record and all(other.status in _OUT for other in models)


def _before(record: Record, models: Sequence[Record]) -> Sequence[Record]:
    return models[: models.index(record)] if models else ()
