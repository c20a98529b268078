"""Which replicas can be asked now: what control published last, and what this worker saw itself."""

import os
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from berth.dialects.base import Dialect
from berth.dialects.registry import DIALECTS
from berth.errors import NotReadyError
from berth.log import log
from berth.plan import Keys, ModelRoute, Plan, Replica
from berth.router.balancing.circuit_breaker import Circuit, CircuitBreaker
from berth.router.exchange import outcomes
from berth.router.upstream.pool import Pool
from berth.state import Progress, ReplicaState, ReplicaStatus, State


class Upstream:
    """A replica, with the connections to it, and how it has fared."""

    __slots__ = ("breaker", "dialect", "heard", "limit", "pool", "progress", "promised", "replica", "spared")

    def __init__(self, replica: Replica, key: str | None) -> None:
        self.replica = replica
        self.dialect: Dialect = DIALECTS[replica.dialect]
        self.pool = Pool(replica.url, key=key)
        self.breaker = CircuitBreaker()
        self.limit = replica.concurrency or 0  # requests at once; 0: no limit
        self.promised = 0  # requests that this worker will send at once: they count as the replica's already
        self.spared = 0  # 1: a place that comes free is not for requests, but to see whether the replica lives
        self.heard = 0.0  # when an answer, or the first token of one, came last: seconds of time.monotonic()
        self.progress = 0  # pieces of its streams that were forwarded; only compared


class Upstreams:
    """All replicas of the plan. `poll` reads the State again when its file has changed."""

    def __init__(self, plan: Plan, keys: Keys) -> None:
        self._path = plan.paths.state
        self._upstreams = {r.name: Upstream(r, keys.upstream_keys.get(r.name)) for r in plan.replicas}
        self._replicas = {replica.name: replica for replica in plan.replicas}
        self._routes = plan.routes
        self._with_twin = {
            first.name
            for first in plan.replicas
            for second in plan.replicas
            if first.same_weights(second)
        }
        self._unknown = {replica.name: _before_the_first_state(replica, plan.created) for replica in plan.replicas}
        self._troubled: set[str] = set()  # replicas whose breaker is not closed
        self._down: set[str] = set()  # those of them that failed; the others are full
        self._stamp: tuple[int, int, int] | None = None
        self._ready: dict[str, list[Upstream]] = {}  # model -> those that control finds ready, in the route's order
        self.state: State | None = None  # the last good one
        self.statuses: Mapping[str, ReplicaState] = self._unknown
        self._attendants: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._sort()

    def attend(self, look: Callable[[], None], close: Callable[[], None]) -> None:
        """From now on `look` is called with each poll, and `close` with the end."""
        self._attendants.append((look, close))

    def poll(self) -> None:
        """Called a few times a second."""
        self._read_state()
        for look, _ in self._attendants:
            look()

    def _read_state(self) -> None:
        """A file that is missing or cannot be read changes nothing: the last good State counts."""
        try:
            stat = os.stat(self._path)  # noqa: PTH116 - five times a second: the cheap call
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            state = State.from_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, msgspec.MsgspecError) as exc:
            log.warning("the state cannot be read; the last one counts", file=str(self._path), error=str(exc))
            return
        before = self.statuses
        self.state = state
        self.statuses = {**self._unknown, **{r.name: r for r in state.replicas if r.name in self._unknown}}
        for name in tuple(self._troubled):
            was, now = before[name].status, self.statuses[name].status
            if now is ReplicaStatus.READY and was is not ReplicaStatus.READY:
                self._recovered(self._upstreams[name])
        self._sort()

    def ready(self, route: ModelRoute) -> Sequence[Upstream]:
        """Those that control finds ready, in the route's order."""
        return self._ready[route.name]

    def not_ready(self, route: ModelRoute) -> NotReadyError:
        """What to tell when there are none."""
        return outcomes.not_ready(route, self._replicas, self.statuses, time.time())

    def well(self, upstreams: Sequence[Upstream]) -> Sequence[Upstream]:
        """Those of them that are not left alone; where all are, all, the one in front that comes back the soonest."""
        if not self._troubled:
            return upstreams
        now = time.monotonic()
        return [one for one in upstreams if not one.breaker.ejected_until(now)] or self.by_trouble(upstreams)

    def by_trouble(self, upstreams: Sequence[Upstream]) -> Sequence[Upstream]:
        """All of them, those that are left alone behind the others."""
        if not self._troubled:
            return upstreams
        now = time.monotonic()
        return sorted(upstreams, key=lambda upstream: upstream.breaker.ejected_until(now))

    def has_twin(self, upstream: Upstream) -> bool:
        """Another replica of its model has the same weights."""
        return upstream.replica.name in self._with_twin

    def twins(self, route: ModelRoute, upstream: Upstream) -> Sequence[Upstream]:
        """Those of them that are ready, in order."""
        first = upstream.replica
        twins = [other for other in self._ready[route.name] if first.same_weights(other.replica)]
        return self.by_trouble(twins)

    def begun(self, upstream: Upstream) -> None:
        """The first token of a stream came. Its end will tell whether the replica is well, but it is not full."""
        upstream.heard = time.monotonic()
        if upstream.breaker.full:
            self.succeeded(upstream)

    def succeeded(self, upstream: Upstream) -> None:
        now = upstream.heard = time.monotonic()
        upstream.breaker.succeeded(now)
        if self._troubled:
            self._note(upstream)

    def refused(self, upstream: Upstream, retry_after_s: float) -> None:
        """It is full. `retry_after_s`: when it wants to be asked again; 0: it does not say."""
        now = upstream.heard = time.monotonic()
        upstream.breaker.refused(now, retry_after_s)
        if upstream.breaker.full:
            self._note(upstream)

    def failed(self, upstream: Upstream, *, certain: bool) -> None:
        """`certain`: nobody listens there."""
        upstream.breaker.failed(time.monotonic(), certain=certain)
        self._note(upstream)

    def marked_down(self) -> list[str]:
        """The replicas that failed and are left alone for a while, or have not shown since that they are well."""
        return list(self._down)

    def close(self) -> None:
        for _, close in self._attendants:
            close()
        for upstream in self._upstreams.values():
            upstream.pool.close()

    def _recovered(self, upstream: Upstream) -> None:
        upstream.breaker.reset()
        self._note(upstream)

    def _note(self, upstream: Upstream) -> None:
        name, circuit = upstream.replica.name, upstream.breaker.circuit(time.monotonic())
        if circuit is Circuit.CLOSED:
            self._troubled.discard(name)
            if name in self._down:
                self._down.discard(name)
                log.info("replica answers again", replica=name)
        elif circuit is Circuit.OPEN:
            if upstream.breaker.full and name not in self._troubled:
                log.warning("replica says that it is full, and serves nobody: it is asked less often", replica=name)
            self._troubled.add(name)
            if name not in self._down and not upstream.breaker.full:
                self._down.add(name)
                log.warning("replica fails and is left alone for a while", replica=name)

    def _sort(self) -> None:
        self._ready = {
            route.name: [
                self._upstreams[name] for name in route.replicas if self.statuses[name].status is ReplicaStatus.READY
            ]
            for route in self._routes
        }


def _before_the_first_state(replica: Replica, since: int) -> ReplicaState:
    """An attached engine is taken at its word; one of ours has not been started yet."""
    if replica.launch is None:
        return ReplicaState(name=replica.name, status=ReplicaStatus.READY, since=since)
    return ReplicaState(
        name=replica.name,
        status=ReplicaStatus.WAITING,
        since=since,
        reason="control has not reported yet",
        progress=Progress(phase="boot"),
    )
