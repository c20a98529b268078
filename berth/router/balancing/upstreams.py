"""The replicas as this worker sees them: the last state that control published, and its own requests' outcomes."""

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from berth.canonical import Operation
from berth.dialects.base import Dialect
from berth.dialects.registry import dialect_of
from berth.errors import NotReadyError
from berth.ipc.reserved_file import read
from berth.ipc.shadow import Mirror
from berth.log import log
from berth.plan import ApiKey, Discovered, EngineName, Keys, Load, ModelRoute, Plan, Replica
from berth.plan.keys import OPEN
from berth.router.balancing.circuit_breaker import Circuit, CircuitBreaker
from berth.router.exchange import outcomes
from berth.router.exchange.auth import key_in
from berth.router.exchange.outcomes import HEALTHY, UNHEALTHY, Outcome
from berth.router.upstream.pool import Pool
from berth.state import AddedAdapter, AttachedFault, Canary, Progress, ReplicaState, ReplicaStatus, State

_COMING = frozenset({ReplicaStatus.WAITING, ReplicaStatus.STARTING, ReplicaStatus.WAKING})  # without a further request
SHARES: Final = 1 << 32
_RETURNING = frozenset(
    {
        ReplicaStatus.STARTING,
        ReplicaStatus.BACKOFF,
        ReplicaStatus.UNHEALTHY,
        ReplicaStatus.FALLING_ASLEEP,
        ReplicaStatus.ASLEEP,
        ReplicaStatus.WAKING,
    }
)


class Upstream:
    """A replica with its connections and its live state. Each mutable field has one writer."""

    __slots__ = (
        *(
            "_key",
            "breaker",
            "broken_since",
            "called",
            "check_slots",
            "config_error",
            "dialect",
            "fragile",
            "heard",
            "limit",
        ),
        *("needs_uuid", "pool", "progress", "replica", "reserved", "response_headers"),
    )

    def __init__(self, replica: Replica, key: str | None) -> None:
        # written by Upstreams
        self._key = key
        self.speak(replica)
        self.breaker = CircuitBreaker()
        self.broken_since = 0.0  # time.monotonic() of the first failure after the last success; 0: none
        self.config_error = ""  # with which it refuses Berth's key, or its name for the model
        self.heard = 0.0  # time.monotonic() of the last response, or first token of one
        # written by Admission
        self.reserved = 0  # slots that this worker has reserved: they count as requests of the replica already
        self.check_slots = 0  # 1: the next free slot is kept for the liveness check
        # written by StreamForwarder
        self.progress = 0  # pieces of streams that came from it; only compared

    def speak(self, replica: Replica) -> None:
        """From now on, as to this replica."""
        self.replica = replica
        self.called = replica.called
        self.dialect: Dialect = dialect_of(replica)
        self.fragile = replica.attached and self.dialect.fragile
        self.needs_uuid = replica.attached and self.dialect.needs_uuid
        self.pool = Pool(replica.url, key=self._key, api_path=replica.api_path)
        engine = replica.dialect if replica.engine is EngineName.REMOTE else replica.engine
        self.response_headers = ((b"x-berth-engine", engine.encode()), (b"x-berth-replica", replica.name.encode()))
        self.limit = replica.concurrency or 0  # concurrent requests; 0: no limit


class Split(NamedTuple):
    """A share of a model's conversations gets one of its replicas first."""

    upstream: Upstream
    share: int  # of SHARES
    salt: bytes


class Upstreams:
    """All replicas of the plan. `poll` reads the state file again when it has changed."""

    def __init__(
        self,
        plan: Plan,
        keys: Keys,
        on_context: Callable[[str, int], None] = lambda *_: None,
        on_adapters: Callable[[Sequence[AddedAdapter]], None] = lambda _: None,
        on_shares: Callable[[Collection[str], tuple[Mirror, ...]], None] = lambda *_: None,
    ) -> None:
        """`on_context` gets a model and its context where that is known only when a server has been identified, or has
        changed by a migration;
        `on_adapters` those that were added, and `on_shares` the routes with a canary and all shadows,
        whenever they have changed.
        """
        self._on_shares = on_shares
        self._on_context = on_context
        self._on_adapters = on_adapters
        self._path = plan.paths.state
        self._upstreams = {r.name: Upstream(r, keys.upstream_keys.get(r.name)) for r in plan.replicas}
        self._replicas = {replica.name: replica for replica in plan.replicas}
        self._routes = plan.routes
        self._with_peer = _with_peer(plan.replicas)
        may_go = [route for route in plan.models if plan.room and route.room and route.drain_timeout_s]
        self._in_turn = {name for route in may_go for name in route.replicas}  # those that make room for other models
        self._preempting: Sequence[Upstream] = ()  # those that do now, and whose requests have had their time
        self._initial = {replica.name: _initial_state(replica, plan.created) for replica in plan.replicas}
        self._attached = frozenset(replica.name for replica in plan.replicas if replica.attached)
        self._unreported = self._attached  # attached, and not in the state of control: they get requests nevertheless
        self._down: set[str] = set()  # the ejected replicas that failed; the others are overloaded
        self._stamp: tuple[int, int, int] | None = None
        self._ready: dict[str, list[Upstream]] = {}  # model -> those that control reports ready, in the route's order
        self._orders: Mapping[str, tuple[str, ...]] = {}  # of models that were migrated: their replicas
        self.canaries: Mapping[str, Split] = {}  # by route
        self._shares: tuple[tuple[Canary, ...], tuple[Mirror, ...]] = ((), ())  # as control has published them
        self.held: Collection[str] = ()  # models whose requests a migration queues
        self.ejected: set[str] = set()  # replicas whose circuit is not closed
        self.state: State | None = None  # the last valid one
        self.statuses: Mapping[str, ReplicaState] = self._initial
        self._sort()

    def of(self, name: str) -> Upstream:
        """Of a replica of the plan."""
        return self._upstreams[name]

    def poll(self) -> None:
        """Called a few times a second. If the file is missing or invalid, the last valid state is kept. The exchanges
        with replicas that have to make room are given up: each time, since a request may have been on its way to one.
        """
        for upstream in self._preempting:
            upstream.pool.preempt()
        try:
            stat = os.stat(self._path)  # noqa: PTH116 - five times a second: the cheap call
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            state = State.from_json(read(self._path))
        except FileNotFoundError:
            return
        except (OSError, ValueError, msgspec.MsgspecError) as exc:
            log.warning("cannot read state file, keeping last known state", file=str(self._path), error=str(exc))
            return
        self._take(state)

    def _take(self, state: State) -> None:
        """It is the last one from now on."""
        before = self.statuses
        if state.adapters != (self.state.adapters if self.state else ()):
            self._on_adapters(state.adapters)
        if (state.canaries, state.shadows) != self._shares:
            self._split(state.canaries, state.shadows)
        self.state, self._orders, self.held = state, state.orders, state.held
        self._unreported = self._attached - {replica.name for replica in state.replicas}
        self.statuses = {**self._initial, **{r.name: r for r in state.replicas if r.name in self._initial}}
        for reported in state.replicas:
            if reported.discovered is not None and reported.name in self._replicas:
                self._discovered(reported.name, reported.discovered)
        for name in tuple(self.ejected):
            was, now = before[name].status, self.statuses[name].status
            if now is ReplicaStatus.READY and was is not ReplicaStatus.READY:
                self._upstreams[name].breaker.reset()
                self._update(self._upstreams[name])
        self._preempting = [self._upstreams[one.name] for one in self.statuses.values() if one.preempts]
        self._sort()

    def _split(self, canaries: tuple[Canary, ...], mirrors: tuple[Mirror, ...]) -> None:
        """Only where the plan has the replica."""
        self._shares = canaries, mirrors
        splits = {
            one.model: Split(self._upstreams[one.replica], int(one.share * SHARES), one.salt.encode())
            for one in canaries
            if one.replica in self._upstreams
        }
        bases = {route.name: route.base or route.name for route in self._routes}
        self.canaries = {name: splits[base] for name, base in bases.items() if base in splits}
        self._on_shares(self.canaries, mirrors)

    def _discovered(self, name: str, found: Discovered) -> None:
        """Running requests keep the connections that they have."""
        upstream = self._upstreams[name]
        known = self._replicas[name].as_discovered(found)
        if known == self._replicas[name]:
            return
        self._replicas[name] = known
        upstream.pool.close()
        upstream.speak(known)
        self._with_peer = _with_peer(self._replicas.values())
        contexts = [one.context for one in self._replicas.values() if one.model == known.model and one.context]
        if contexts:
            self._on_context(known.model, min(contexts))

    def ready(self, route: ModelRoute) -> Sequence[Upstream]:
        """Those that control reports ready, in the route's order; those that its rule names are first."""
        ready: Sequence[Upstream] = self._ready[route.name]
        if route.added:
            ready = [one for one in ready if route.added in self.statuses[one.replica.name].adapters]
        if route.engine:
            first = [one for one in ready if route.engine in one.called]
            ready = first if route.only else [*first, *(one for one in ready if one not in first)]
        return ready

    def measured(self, route: ModelRoute, headers: Mapping[bytes, bytes]) -> Sequence[Upstream]:
        """The leased replica, for the `berth bench` that measures it, and for no other client. NotReadyError."""
        found = [
            self._upstreams[name]
            for name in route.replicas
            if (digest := self.statuses[name].measured_by)
            and hmac.compare_digest(hashlib.sha256(key_in(headers)).hexdigest(), digest)
        ]
        if not found:
            raise self.not_ready(route)
        return found

    def measuring(self, digest: str) -> ApiKey | None:
        """The key of the `berth bench` that runs: it may use the leased model, and no other."""
        leased = (name for name, one in self.statuses.items() if digest and one.measured_by == digest)
        model = next((self._replicas[name].model for name in leased), "")
        return replace(OPEN, models=(model,)) if model else None

    def comes_back(self, route: ModelRoute) -> bool:
        """It is being loaded by an operation, or will be by the request itself: requests wait."""
        on_request = route.load is Load.ON_REQUEST
        if route.added and self._ready[route.name]:  # the adapter is being loaded, unless every engine failed to
            return any(
                route.added not in self.statuses[one.replica.name].adapter_errors for one in self._ready[route.name]
            )
        states = [self.statuses[name] for name in route.replicas]
        return any(
            (state.requested == "loaded" or (on_request and (state.away or state.status in _COMING)))
            and not (state.obstructed or state.memory_not_free or state.leased)
            for state in states
        )

    def not_ready(self, route: ModelRoute) -> NotReadyError:
        """The error when no replica is ready."""
        if route.added and self._ready[route.name]:
            errors = [
                self.statuses[one.replica.name].adapter_errors.get(route.added) for one in self._ready[route.name]
            ]
            return outcomes.adapter_not_loaded(route.added, next(filter(None, errors), ""))
        return outcomes.not_ready(route, self._replicas, self.statuses, time.time())

    def progress(self, route: ModelRoute) -> str:
        """Of the load that requests wait for, for people."""
        states = [self.statuses[name] for name in route.replicas]
        found = next((state.progress for state in states if state.progress is not None), None)
        percent = f" {found.percent:.0f} %" if found is not None and found.percent is not None else ""
        text = f"model loading: {found.phase}{percent}" if found is not None else "model loading"
        left_s = min(filter(None, (state.left_s(time.time()) for state in states)), default=0.0)
        return f"{text}, about {left_s:.0f} s left" if left_s >= 1 else text

    def may_move(self, upstream: Upstream) -> bool:
        """Another engine may have to continue its streams, or itself once it is back: what they say has to be kept."""
        name = upstream.replica.name
        return name in self._with_peer or name in self._in_turn

    def has_peer(self, upstream: Upstream) -> bool:
        """Another replica of its model has the same weights."""
        return upstream.replica.name in self._with_peer

    def peers(self, route: ModelRoute, upstream: Upstream, operation: Operation) -> Sequence[Upstream]:
        """The ready replicas with the same weights that are known to continue an answer of this kind."""
        return [
            other
            for other in self.ready(route)
            if upstream.replica.same_weights(other.replica) and self.continues(other, operation)
        ]

    def begins_again(self, upstream: Upstream) -> bool:
        """It is known to begin a new answer in a chat that brings one to continue."""
        given, found = upstream.replica.continues, self.statuses[upstream.replica.name].continues
        is_found = upstream.dialect.continues_chat is None and found is not None and Operation.CHAT not in found
        return is_found if given is None else not given

    def continues(self, upstream: Upstream, operation: Operation) -> bool:
        """As the operator says; else as its dialect knows; else as control has found out."""
        dialect = upstream.dialect
        known = dialect.continues_chat if operation is Operation.CHAT else dialect.continues_completion
        if upstream.replica.continues is not None:
            known = upstream.replica.continues
        return operation in (self.statuses[upstream.replica.name].continues or ()) if known is None else known

    def returning(self, route: ModelRoute, upstream: Upstream) -> bool:
        """This replica, or one with the same weights, is not ready but may be within seconds."""
        return any(
            self.statuses[name].status in _RETURNING
            for name in route.replicas
            if name == upstream.replica.name or upstream.replica.same_weights(self._replicas[name])
        )

    def record(self, upstream: Upstream, outcome: Outcome, retry_after_s: float = 0.0) -> None:
        """The outcome of an attempt that reached the replica."""
        if outcome in HEALTHY:
            self.succeeded(upstream)
        elif outcome in UNHEALTHY:
            self.failed(upstream, certain=outcome is Outcome.CONNECT)
        elif outcome is Outcome.OVERLOADED:
            self.overloaded(upstream, retry_after_s)
        else:
            upstream.breaker.withdrawn()

    def stream_begun(self, upstream: Upstream) -> None:
        """The first token came. The end of the stream will show whether the replica is healthy, but it has capacity."""
        upstream.heard = time.monotonic()
        if upstream.breaker.overloaded:
            self.succeeded(upstream)

    def responded(self, upstream: Upstream) -> None:
        """The replica is alive; nothing else is known."""
        upstream.heard = time.monotonic()

    def succeeded(self, upstream: Upstream) -> None:
        now = upstream.heard = time.monotonic()
        upstream.broken_since, upstream.config_error = 0.0, ""
        upstream.breaker.succeeded(now)
        if self.ejected:
            self._update(upstream)

    def overloaded(self, upstream: Upstream, retry_after_s: float) -> None:
        """`retry_after_s`: as the replica requests; 0: it does not."""
        now = upstream.heard = time.monotonic()
        upstream.breaker.rejected(now, retry_after_s)
        if upstream.breaker.overloaded:
            self._update(upstream)

    def failed(self, upstream: Upstream, *, certain: bool) -> None:
        """`certain`: it accepts no connection."""
        now = time.monotonic()
        upstream.broken_since = upstream.broken_since or now
        upstream.breaker.failed(now, certain=certain)
        self._update(upstream)

    def misconfigured(self, upstream: Upstream, error: str) -> None:
        """Its operator, or Berth's, has to act: logged once until it serves again."""
        if not upstream.config_error:
            log.error("attached server refuses requests", replica=upstream.replica.name, reason=error)
        upstream.config_error = error

    def config_errors(self) -> Mapping[str, str]:
        """By replica, of those that refuse Berth's key or its name for the model."""
        return {name: upstream.config_error for name, upstream in self._upstreams.items() if upstream.config_error}

    def alike(self, route: ModelRoute, upstream: Upstream) -> Sequence[Upstream]:
        """The attached servers of this kind, itself included."""
        dialect = upstream.replica.dialect
        return [one for one in self._ready[route.name] if one.replica.attached and one.replica.dialect is dialect]

    def marked_down(self) -> list[str]:
        """The replicas that failed and are ejected, or have not responded since."""
        return list(self._down)

    def close(self) -> None:
        for upstream in self._upstreams.values():
            upstream.pool.close()

    def _update(self, upstream: Upstream) -> None:
        name, circuit = upstream.replica.name, upstream.breaker.circuit(time.monotonic())
        if circuit is Circuit.CLOSED:
            self.ejected.discard(name)
            if name in self._down:
                self._down.discard(name)
                log.info("circuit breaker closed", replica=name)
        elif circuit is Circuit.OPEN:
            if upstream.breaker.overloaded and name not in self.ejected:
                log.warning("upstream overloaded, backing off", replica=name)
            self.ejected.add(name)
            if name not in self._down and not upstream.breaker.overloaded:
                self._down.add(name)
                log.warning("circuit breaker opened", replica=name)

    def _sort(self) -> None:
        self._ready = {
            route.name: [
                self._upstreams[name]
                for name in (self._orders.get(route.base or route.name) or route.replicas)
                if self.statuses[name].status is ReplicaStatus.READY or name in self._unreported
            ]
            for route in self._routes
        }


def _with_peer(replicas: Collection[Replica]) -> set[str]:
    """Those whose streams another one may continue."""
    return {
        first.name
        for first in replicas
        for second in replicas
        if first.same_weights(second) and second.continues is not False
    }


def _initial_state(replica: Replica, since: int) -> ReplicaState:
    """Before control has published a state."""
    if replica.attached:
        return ReplicaState(name=replica.name, status=ReplicaStatus.STARTING, since=since, reason=AttachedFault.UNASKED)
    return ReplicaState(
        name=replica.name,
        status=ReplicaStatus.WAITING,
        since=since,
        reason="control has not reported yet",
        progress=Progress(phase="boot"),
    )
