"""Who may be asked next for a request, the best one in front."""

from collections.abc import Sequence

from berth.plan import Standby
from berth.router import affinity, routing
from berth.router.call import Call
from berth.router.metrics import Meter
from berth.router.upstreams import Upstream, Upstreams


class Balance:
    """There are two kinds of models:

    1. Their engines take each other's place: they are asked in the order of the plan.
    2. Their engines all serve (standby: hot): the one with the least to do is asked, but a conversation stays where it
       was as long as that one has not much more to do than the others.
    """

    def __init__(self, upstreams: Upstreams, meter: Meter) -> None:
        self._upstreams = upstreams
        self._meter = meter

    def candidates(self, call: Call, asked: Sequence[Upstream] = ()) -> Sequence[Upstream]:
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

    def twins(self, call: Call, upstream: Upstream) -> Sequence[Upstream]:
        """The replicas that can go on with what this one has begun."""
        twins = self._upstreams.twins(call.route, upstream)
        if call.route.standby is Standby.HOT and len(twins) > 1:
            twins = self._upstreams.by_trouble(self._balanced(call, twins))
        return twins

    def _balanced(self, call: Call, upstreams: Sequence[Upstream]) -> list[Upstream]:
        shares = [upstream.replica.share for upstream in upstreams]
        loads = [self._meter.load(upstream.replica) for upstream in upstreams]
        order = routing.by_load(loads, shares)
        if call.session:
            ranked = affinity.ranked(call.session, [upstream.replica.name for upstream in upstreams], shares)
            limits = [upstream.limit for upstream in upstreams]
            order = routing.preferring(ranked, order, loads, shares, limits)
        return [upstreams[place] for place in order]
