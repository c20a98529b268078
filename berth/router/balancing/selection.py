"""Who may be asked next for a request, the best one in front."""

from collections.abc import Sequence

from berth.errors import (
    OverloadedError,
)
from berth.plan import ModelRoute, Standby
from berth.router.balancing import affinity
from berth.router.balancing.circuit_breaker import CircuitBreaker
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange.outcomes import _RETRY_OVERLOADED_S
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.metrics import Meter


class Balance:
    """There are two kinds of models:

    1. Their engines take each other's place: they are asked in the order of the plan.
    2. Their engines all serve (standby: hot): the one with the least to do is asked, but a conversation stays where it
       was as long as that one has not much more to do than the others.
    """

    def __init__(self, upstreams: Upstreams, meter: Meter) -> None:
        self._upstreams = upstreams
        self._meter = meter

    def candidates(self, call: RequestContext, asked: Sequence[Upstream] = ()) -> Sequence[Upstream]:
        """Those that are well, less those that were asked; when none is left of them, the ones that are left alone.
        None at all: everybody was asked. NotReadyError where there is nobody to ask.
        """
        route = call.route
        ready: Sequence[Upstream] = self._upstreams.ready(route)
        if asked:
            ready = [upstream for upstream in ready if upstream not in asked]
        elif not ready:
            raise self._upstreams.not_ready(route)
        ready = self._upstreams.well(ready)
        if route.standby is Standby.HOT and len(ready) > 1:
            return self._balanced(call, ready)
        return ready

    def twins(self, call: RequestContext, upstream: Upstream) -> Sequence[Upstream]:
        """The replicas that can go on with what this one has begun."""
        twins = self._upstreams.twins(call.route, upstream)
        if call.route.standby is Standby.HOT and len(twins) > 1:
            twins = self._upstreams.by_trouble(self._balanced(call, twins))
        return twins

    def _balanced(self, call: RequestContext, upstreams: Sequence[Upstream]) -> list[Upstream]:
        shares = [upstream.replica.share for upstream in upstreams]
        loads = [self._meter.load(upstream.replica) for upstream in upstreams]
        order = by_load(loads, shares)
        if call.session:
            ranked = affinity.ranked(call.session, [upstream.replica.name for upstream in upstreams], shares)
            limits = [upstream.limit for upstream in upstreams]
            order = preferring(ranked, order, loads, shares, limits)
        return [upstreams[place] for place in order]


FULLER = 1.25  # times the average load that a replica may have for a conversation to stay with it,
SPARE = 2  # and so many requests more


def by_load(loads: Sequence[float], shares: Sequence[float]) -> list[int]:
    """The places of the replicas, the one with the least to do for its share in front; else in their order."""
    return sorted(range(len(loads)), key=lambda place: loads[place] / shares[place])


def preferring(
    ranked: Sequence[int],
    order: Sequence[int],
    loads: Sequence[float],
    shares: Sequence[float],
    limits: Sequence[int],
) -> list[int]:
    """`order` with the first of `ranked` in front that is not much fuller than the others, and has room."""
    average = sum(loads) / sum(shares)
    for place in ranked:
        load = loads[place]
        if load <= FULLER * average * shares[place] + SPARE and not 0 < limits[place] <= load:
            return [place, *(other for other in order if other != place)]
    return list(order)


def full(route: ModelRoute, breakers: Sequence[CircuitBreaker], now: float) -> OverloadedError:
    """The answer where all replicas have said that they are full, and nothing else, so that none is asked now."""
    return OverloadedError(
        f"Every engine of model {route.name!r} is full: the last requests were all refused.",
        retry_after_s=max(_RETRY_OVERLOADED_S, min(breaker.opened_until for breaker in breakers) - now),
    )
