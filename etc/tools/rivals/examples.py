"""Measurements as they could have been, for the tests of what is made of them."""

from collections.abc import Mapping

from etc.tools.rivals.compare import Comparison
from etc.tools.rivals.figures import Spread
from etc.tools.rivals.measure import Measurement, Usage
from etc.tools.rivals.routers import Router
from etc.tools.rivals.tally import Result

MEGABYTE = 1_000_000


def spread(p50: float) -> Spread:
    return Spread(p50=p50, p99=2 * p50, most=3 * p50)


def measurement(
    router: str,
    *,
    cpu_s: float,
    tokens: int = 0,
    first_ms: float = 1.0,
    upstream_cpu_s: float = 0.1,
    failures: Mapping[str, int] | None = None,
    unfinished: int = 0,
) -> Measurement:
    """Of ten seconds and a thousand requests."""
    result = Result(
        requests=1000,
        tokens=tokens,
        unfinished=unfinished,
        failures=failures or {},
        wall_s=10.0,
        cpu_s=1.0,
        first=spread(first_ms),
        gap=spread(20.0) if tokens else None,
        whole=spread(first_ms),
    )
    usage = Usage(router=cpu_s / 1.1, whole=cpu_s, upstream=upstream_cpu_s, machine=cpu_s + 8)
    pss = (30 * MEGABYTE, 20 * MEGABYTE) if cpu_s else ()
    return Measurement(router=router, result=result, usage=usage, pss_bytes=pss, whole_pss_bytes=2 * sum(pss))


def comparison(load: str, *rounds: list[Measurement]) -> Comparison:
    names = list(dict.fromkeys(one.router for round_ in rounds for one in round_))
    routers = [Router(name=name, version="1", url="http://127.0.0.1:1", command=f"run {name}") for name in names]
    return Comparison(routers=routers, rounds={load: list(rounds)})
