"""Which replicas can be asked now: what control published last, and what this worker saw itself."""

import os
import time
from collections.abc import Mapping

import msgspec

from berth.engines.base import Dialect
from berth.engines.registry import DIALECTS
from berth.log import log
from berth.plan import Keys, ModelRoute, Plan, Replica
from berth.router import routing
from berth.router.http_client import Pool
from berth.state import ReplicaState, ReplicaStatus, State

DOWN_S = 2.0  # a replica that refused a connection is asked last for so long


class Upstream:
    """A replica, with the connections to it."""

    __slots__ = ("dialect", "pool", "replica")

    def __init__(self, replica: Replica, key: str | None) -> None:
        self.replica = replica
        self.dialect: Dialect = DIALECTS[replica.dialect]
        self.pool = Pool(replica.url, key=key)


class Upstreams:
    """All replicas of the plan. `poll` reads the State again when its file has changed."""

    def __init__(self, plan: Plan, keys: Keys) -> None:
        self._path = plan.paths.state
        self._upstreams = {r.name: Upstream(r, keys.upstream_keys.get(r.name)) for r in plan.replicas}
        self._replicas = {replica.name: replica for replica in plan.replicas}
        self._unknown = {replica.name: _before_the_first_state(replica, plan.created) for replica in plan.replicas}
        self._down: dict[str, float] = {}  # replica -> when the mark ends, on the monotonic clock
        self._stamp: tuple[int, int, int] | None = None
        self.state: State | None = None  # the last good one
        self.statuses: Mapping[str, ReplicaState] = self._unknown

    def poll(self) -> None:
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
        self.state = state
        self.statuses = {**self._unknown, **{r.name: r for r in state.replicas if r.name in self._unknown}}

    def candidates(self, route: ModelRoute) -> list[Upstream]:
        """Those to ask, in order. NotReadyError when there are none."""
        if self._down:
            now = time.monotonic()
            self._down = {name: end for name, end in self._down.items() if end > now}
        names = routing.candidates(route, self.statuses, self._down)
        if not names:
            raise routing.not_ready(route, self._replicas, self.statuses, time.time())
        return [self._upstreams[name] for name in names]

    def mark_down(self, name: str) -> None:
        self._down[name] = time.monotonic() + DOWN_S

    def marked_down(self) -> list[str]:
        return [name for name, end in self._down.items() if end > time.monotonic()]

    def close(self) -> None:
        for upstream in self._upstreams.values():
            upstream.pool.close()


def _before_the_first_state(replica: Replica, since: int) -> ReplicaState:
    """An attached engine is taken at its word; one of ours has not been started yet."""
    if replica.launch is None:
        return ReplicaState(name=replica.name, status=ReplicaStatus.READY, since=since)
    return ReplicaState(
        name=replica.name, status=ReplicaStatus.WAITING, since=since, reason="control has not reported yet"
    )
