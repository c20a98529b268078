"""Windows of load on simulated engines, in virtual time: what is measured is the truth that is known."""

import asyncio
import math
from dataclasses import replace

import pytest

from berth.bench.generator import Size
from berth.bench.window import Sample
from berth.bench.workload import Ask
from berth.records.results import Point
from berth.sim.load.batch import LoadModel
from tests.bench.virtual import SIZE, SLO, WORKLOAD, Simulated, judged, run_of
from tests.fakes.virtual_time import run

ENGINE = LoadModel(itl_s=0.01)


@pytest.mark.parametrize("concurrency", [1, 16, 64])
def test_time_per_token_is_recovered(concurrency: int) -> None:
    point = Point(concurrency=concurrency)
    engine = Simulated(LoadModel(itl_s=0.01, itl_per_running_s=0.0001))
    found = judged(run(run_of(engine, point, size=replace(SIZE, requests=2 * concurrency))), point)
    assert found.tpot["p50"].value == pytest.approx(0.01 + 0.0001 * concurrency, rel=0.005)
    assert found.frames_per_token == 1


@pytest.mark.parametrize("places", [1, 4, 16])
def test_capacity_is_recovered(places: int) -> None:
    point = Point(concurrency=2 * places)
    engine = Simulated(replace(ENGINE, max_running=places), ttft_s=0.0)
    found = judged(run(run_of(engine, point, size=replace(SIZE, requests=20 * places))), point)
    service_s = (16 if places > 1 else 15) * 0.01  # the first token takes a step if others decode
    assert found.achieved == pytest.approx(places / service_s, rel=0.02)
    assert found.ttft["p50"].value == pytest.approx(
        service_s + (places > 1) * 0.01, rel=0.01
    )  # it waits for a place as long
    assert found.tokens_per_s == pytest.approx(16 * places / service_s, rel=0.05)


def test_first_token_is_recovered_where_nothing_waits() -> None:
    point = Point(concurrency=1)
    found = judged(run(run_of(Simulated(replace(ENGINE, prefill_rate=3200)), point)), point)
    assert found.ttft["p50"].value == pytest.approx(0.05 + 0.01)
    assert found.e2e["p50"].value == pytest.approx(0.06 + 0.15)
    assert found.valid


def test_wait_before_a_poisson_load_is_that_of_queueing_theory() -> None:
    """M/D/4 at a utilization of 0.83: 0.54 of the mean wait in M/M/4, which Erlang's formula says."""
    places, service_s = 4, 0.16
    rate = 0.83 * places / service_s
    engine = Simulated(replace(ENGINE, max_running=places), ttft_s=0.0)
    point, size = Point(rate=rate), replace(SIZE, requests=2000, warm_requests=200)
    found = run(run_of(engine, point, size=size, workload=replace(WORKLOAD, prompt_tokens=1)))
    waits = [one.ttft for one in found.measured]
    offered = rate * service_s
    terms = [1.0]
    for number in range(1, places):
        terms.append(terms[-1] * offered / number)
    last = terms[-1] * offered / places * places / (places - offered)
    mean_wait_s = last / (sum(terms) + last) * service_s / (places - offered) * 0.54
    # the first token comes at the end of a step, for whose beginning half a one passes
    assert sum(waits) / len(waits) == pytest.approx(mean_wait_s + 0.015, rel=0.15)


def test_queueing_counts_from_the_schedule_and_a_client_that_is_the_limit_is_invalid() -> None:
    engine = replace(ENGINE, max_running=4)
    point = Point(rate=11.0)
    size = replace(SIZE, requests=200)
    free = judged(run(run_of(Simulated(engine, 0.1), point, size=size)), point, SLO)
    assert free.valid, free.broken
    capped_run = run(run_of(Simulated(engine, 0.1), point, size=size, connections=2))
    capped = judged(capped_run, point)
    assert capped.ttft_sent["p99"].value < 0.15  # all is well, if the client is asked
    assert capped.ttft["p99"].value > 20 * capped.ttft_sent["p99"].value
    assert "F12" in [rule[:3] for rule in capped.broken]


def test_warm_cache_is_invalid_unless_prompts_share_a_beginning_on_purpose() -> None:
    async def scene() -> list[tuple[str, ...]]:
        engine = Simulated(replace(ENGINE, prefill_rate=1e4, prefix_cache=True))
        workload = replace(WORKLOAD, prompt_tokens=64)
        point = Point(concurrency=8)
        windows = [judged(await run_of(engine, point, seed=seed, workload=workload), point) for seed in (1, 2, 1)]
        return [one.broken for one in windows]

    first, second, same = run(scene())
    assert (first, second) == ((), ())
    assert [rule[:2] for rule in same] == ["F7"]


@pytest.mark.parametrize("point", [Point(concurrency=16), Point(rate=60.0)])
def test_drained_warm_up_is_invalid(point: Point) -> None:
    async def scene() -> list[tuple[str, ...]]:
        engine = Simulated(replace(ENGINE, itl_s=0.02))
        whole = await run_of(engine, point)
        drained = await run_of(engine, point, seed=2, size=Size(warm_requests=0, warm_s=0, requests=48, seconds=0))
        return [judged(one, point).broken for one in (whole, drained)]

    whole, drained = run(scene())
    assert whole == ()
    assert [rule[:2] for rule in drained] == ["F8"]


class Compiling(Simulated):
    """It takes longer at first: ever less, as an engine that compiles what it has not met yet."""

    def __init__(self, seconds: float) -> None:
        super().__init__(ENGINE, ttft_s=0.0)
        self._seconds = seconds

    async def ask(self, ask: Ask, sample: Sample) -> None:
        await asyncio.sleep(0.5 * math.exp(-asyncio.get_running_loop().time() / self._seconds))
        await super().ask(ask, sample)


@pytest.mark.parametrize(
    ("seconds", "least", "most", "settled"), [(1, 20, 21, True), (5, 22, 45, True), (23, 60, 62, False)]
)
def test_warm_up_lasts_until_the_engine_has_settled(seconds: float, least: float, most: float, settled: bool) -> None:
    """Or three times as long; a window in which it has not is invalid."""
    point = Point(concurrency=4)
    size = Size(warm_requests=8, warm_s=20, requests=100, seconds=20)
    found = run(run_of(Compiling(seconds), point, size=size))
    assert least <= found.begin <= most
    broken = judged(found, point).broken
    assert (not broken) is settled
    assert all(rule.startswith("F8: not settled: the time") and "fell by" in rule for rule in broken)


@pytest.mark.parametrize(("share", "is_steady"), [(0.8, True), (1.3, False)])
def test_more_load_than_an_engine_can_take_is_no_steady_state(share: float, is_steady: bool) -> None:
    point = Point(rate=share * 4 / 0.16)
    engine = Simulated(replace(ENGINE, max_running=4, jitter=0.2), ttft_s=0.0)
    size = Size(warm_requests=8, warm_s=5, requests=100, seconds=60)
    broken = judged(run(run_of(engine, point, size=size)), point).broken
    assert (not broken) is is_steady
    assert any(rule.startswith("F8: requests came faster than they ended") for rule in broken) is not is_steady


def test_load_goes_on_until_the_last_request_of_the_window_has_ended() -> None:
    point = Point(concurrency=4)
    found = run(run_of(Simulated(ENGINE), point))
    assert all(one.ok for one in found.measured)
    assert max(one.ended for one in found.measured) > found.end
    assert sum(one.scheduled >= found.end for one in found.others) >= 3


def test_window_lasts_as_long_as_it_is_to() -> None:
    point = Point(concurrency=1)
    found = run(run_of(Simulated(ENGINE), point, size=Size(warm_requests=1, warm_s=3, requests=1, seconds=5)))
    assert found.begin >= 3
    assert found.end - found.begin == pytest.approx(5, abs=0.25)


def test_requests_that_never_end_are_failures_and_hold_up_no_one() -> None:
    class Silent:
        async def ask(self, _ask: object, _sample: object) -> None:
            await asyncio.get_running_loop().create_future()

    point = Point(rate=20.0)
    size = Size(warm_requests=0, warm_s=0, requests=20, seconds=0, grace_s=9)
    found = judged(run(run_of(Silent(), point, size=size)), point)
    assert (found.requests, found.failures, found.goodput) == (20, 20, 0)
    assert any("failed" in rule for rule in found.broken)
