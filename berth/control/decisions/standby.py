"""What the other replicas of a model mean for one replica, pure. A policy object decides for it.

Hot: nothing, all replicas run.
Cold: a replica is activated when all before it have failed permanently and left the GPUs. One that was given up is not
started again, not even by request, while another one serves in its place or stands by.
Warm:
1. At first all engines after the first are loaded one by one and put to sleep. Then the first starts.
2. A replica that fails, for whatever reason, yields as soon as another one of its model sleeps: it becomes a cold
   standby. The first sleeping replica is woken when the failed one has left its GPUs.
3. When no replica sleeps any more, the model behaves as with `standby: cold`: a failed replica is restarted, and the
   first standby in order takes over only after a permanent failure. Replicas that yielded count as standbys too.
4. A replica that cannot be put to sleep, or dies before or while it sleeps, is a cold standby from then on: it cannot
   be loaded while another one holds the GPU memory. One that cannot be woken is restarted like any other.
5. A replica that sleeps by request is woken by request, unless another one of its model serves by then.
"""

from collections.abc import Mapping, Sequence

from berth.control.decisions.records import COMING, GIVEN_UP, Goal, Observation, Record
from berth.control.supervisord_client import Process
from berth.plan import ModelRoute, Replica, Standby
from berth.state import ReplicaStatus

_S = ReplicaStatus

_ACTIVE = frozenset({_S.WAITING, _S.STARTING, _S.WAKING, _S.READY, _S.DRAINING, _S.UNHEALTHY, _S.BACKOFF, _S.STOPPING})
_CHANGING = frozenset({_S.WAITING, _S.STARTING, _S.FALLING_ASLEEP, _S.STOPPING})
_INACTIVE = frozenset({_S.STANDBY, _S.ASLEEP, _S.FAILED})


def policy(record: Record, observation: Observation) -> "ColdStandby | WarmStandby":
    name = record.replica.name
    known = {other.replica.name: other for other in observation.records}
    for route in observation.routes:
        if route.standby is Standby.WARM and name in route.replicas:
            return WarmStandby(record, [known[other] for other in route.replicas], observation.processes)
    before = cold_predecessors(observation.routes, [other.replica for other in observation.records], name)
    cold = [route for route in observation.routes if route.standby is Standby.COLD and name in route.replicas]
    others = [known[other] for route in cold for other in route.replicas if other != name]
    return ColdStandby(record, others, [known[other] for other in before])


def first_status(routes: Sequence[ModelRoute], replicas: Sequence[Replica], name: str) -> ReplicaStatus:
    """When its model is loaded: at boot, or by request."""
    return _S.STANDBY if cold_predecessors(routes, replicas, name) else _S.WAITING


def cold_predecessors(routes: Sequence[ModelRoute], replicas: Sequence[Replica], name: str) -> list[str]:
    """The launched replicas before this one in the order of a model with `standby: cold`."""
    launched = {replica.name for replica in replicas if replica.launch is not None}
    return [
        other
        for route in routes
        if route.standby is Standby.COLD and name in route.replicas
        for other in route.replicas[: route.replicas.index(name)]
        if other in launched
    ]


class ColdStandby:
    """For hot standby too: there, other replicas do not count, and none has predecessors."""

    def __init__(self, record: Record, others: Sequence[Record], predecessors: Sequence[Record]) -> None:
        self._record = record
        self._others = others  # of the model
        self._predecessors = predecessors

    def activation(self) -> str | None:
        """Why a cold standby takes over now. None: it does not."""
        behind = self._predecessors
        if not behind or any(other.status is not _S.FAILED or not other.cleaned_up for other in behind):
            return None
        return _took_over_from(self._predecessors[-1])

    def must_sleep(self) -> bool:
        """It is put to sleep after it has loaded."""
        return False

    def must_wait(self) -> bool:
        """It must not start yet, because of other replicas of its model."""
        return False

    def must_yield(self) -> bool:
        """After a failure it becomes a cold standby instead of being restarted."""
        return False

    def wake_up(self) -> str | None:
        """Why a sleeping replica is woken now. None: it is not."""
        return None

    def may_wake(self) -> bool:
        """A request wakes it."""
        return True

    def is_replaced(self) -> bool:
        """It was given up, and another one serves in its place by now, or takes over: a request does not start it."""
        return self._record.status in GIVEN_UP and any(
            other.status is _S.STANDBY or _serves(other) for other in self._others
        )


class WarmStandby:
    """The methods of ColdStandby, for one replica of a model with `standby: warm`."""

    def __init__(self, record: Record, order: Sequence[Record], processes: Mapping[str, Process]) -> None:
        self._record = record
        self._order = order  # of the model, this replica included
        self._processes = processes

    def activation(self) -> str | None:
        """No other replica is active or asleep, and all have left the GPUs."""
        if any(other.status is _S.ASLEEP and other is not self._record for other in self._order):
            return None
        if not all(other.cleaned_up for other in self._order) or not self._is_next(_S.STANDBY):
            return None
        return self._took_over()

    def must_sleep(self) -> bool:
        before = self._order[: self._order.index(self._record)]
        return self._record.replica.sleep is not None and any(other.status in _ACTIVE for other in before)

    def must_wait(self) -> bool:
        """Until each replica after it is asleep, or has failed to get there."""
        behind = self._order[self._order.index(self._record) + 1 :]
        return any(other.status in _CHANGING for other in behind)

    def must_yield(self) -> bool:
        return self.must_sleep() or any(other is not self._record and self._sleeps(other) for other in self._order)

    def wake_up(self) -> str | None:
        return self._took_over() if self._sleeps(self._record) and self._is_next(_S.ASLEEP) else None

    def may_wake(self) -> bool:
        return not any(_serves(other) for other in self._order if other is not self._record)

    def is_replaced(self) -> bool:
        return False

    def _sleeps(self, record: Record) -> bool:
        """It is asleep, and its process has not exited since the last poll."""
        process = self._processes.get(record.replica.name)
        return record.status is _S.ASLEEP and process is not None and process.alive

    def _is_next(self, status: ReplicaStatus) -> bool:
        """It is the first with this status, and no replica of the model is active."""
        first = next((other for other in self._order if other.status is status), None)
        return first is self._record and all(other.status in _INACTIVE for other in self._order)

    def _took_over(self) -> str:
        """Names the replica that failed last."""
        failed = [o for o in self._order if o is not self._record and o.status in (_S.FAILED, _S.STANDBY)]
        last = max(failed, key=lambda other: other.since, default=None)
        return _took_over_from(last) if last and last.reason else ""


def _serves(record: Record) -> bool:
    """It is ready, or comes without being asked."""
    return (record.status is _S.READY or record.status in COMING) and record.goal is not Goal.ASLEEP


def _took_over_from(failed: Record) -> str:
    return f"took over from {failed.replica.name}, which failed: {failed.reason}"
