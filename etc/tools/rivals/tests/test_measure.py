import pytest

from etc.tools.rivals import routers
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.frames import Pace
from etc.tools.rivals.load import Load
from etc.tools.rivals.measure import Usage, measure
from etc.tools.rivals.routers import Router
from tests.fakes.ports import free_port


def test_both_loads_are_measured_end_to_end() -> None:
    """The upstream plays the router too: its processes are counted."""
    with routers.upstream(processes=2) as (url, pids):
        router = Router(name="itself", version="", url=url, command="", roots=pids)
        whole = measure(router, Load(connections=2, seconds=0.3), pids)
        pace = Pace(tokens=5, first_ms=5, next_ms=5)
        streamed = measure(router, Load(connections=3, seconds=20, pace=pace, streams=2, stagger_s=0.1), pids)
        cut = measure(router, Load(connections=1, seconds=0.5, pace=Pace(tokens=2, first_ms=1, next_ms=60_000)), pids)
    assert len(pids) == 2
    assert whole.result.requests > 0
    assert whole.usage.router == whole.usage.upstream
    assert whole.result.failures == {}
    assert len(whole.pss_bytes) == 2
    assert (streamed.result.requests, streamed.result.tokens) == (6, 30)
    assert (cut.result.requests, cut.result.tokens, cut.result.unfinished) == (0, 1, 1)


def test_a_router_that_does_not_answer_is_not_measured() -> None:
    router = Router(name="nobody", version="", url=f"http://127.0.0.1:{free_port()}", command="")
    with pytest.raises(BenchError, match=r"nobody: .*does not answer as it should"):
        measure(router, Load(connections=1, seconds=1), ())


def test_usage_is_the_difference_of_two_readings() -> None:
    before = Usage(router=1, whole=2, upstream=3, machine=4)
    after = Usage(router=2, whole=4, upstream=6, machine=8)
    assert after.since(before) == before
