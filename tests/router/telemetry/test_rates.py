"""Rates and quantiles, from the counters of two moments."""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.canonical import Usage
from berth.router.exchange.outcomes import ContinuationBlocker
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.rates import Sampler, model_rates, quantile, traffic
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import EngineLoad, GpuState, ReplicaStatus, State
from tests.fakes.key_board import key_board
from tests.fakes.router import replica_state
from tests.router.telemetry.test_metrics import PLAN, request

BOUNDS = (0.1, 0.2, 0.5, 1.0)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Scoreboard]:
    Scoreboard.create(tmp_path / "scoreboard", layout(PLAN), rows=1)
    board = Scoreboard(tmp_path / "scoreboard", layout(PLAN))
    yield board
    board.close()


def test_rates_are_differences_per_second(board: Scoreboard, tmp_path: Path) -> None:
    meter, sampler = Meter(board, key_board(board, PLAN, tmp_path)), Sampler(PLAN, board.layout)
    meter.observe(request(status=500))
    before = sampler.sample(board.totals()[0], 100.0)
    for status in (200, 429, 502):
        meter.observe(request(status=status, usage=Usage(prompt_tokens=20, completion_tokens=40), first_token_s=0.15))
    meter.broken_stream("chat", ContinuationBlocker.SEED)
    meter.queued("chat", 2)
    after = sampler.sample(board.totals()[0], 104.0)

    rates = model_rates(before, after, sampler.bounds)["chat"]

    assert (rates["requests_s"], rates["errors_s"]) == (0.75, 0.5)
    assert (rates["tokens_in_s"], rates["tokens_out_s"]) == (15.0, 30.0)
    assert (rates["in_flight"], rates["queue"]) == (0, 2)
    assert 0.1 < rates["ttft_p50_s"] < rates["ttft_p95_s"] <= 0.25


def test_tokens_of_streams_count_while_they_run_and_once(board: Scoreboard, tmp_path: Path) -> None:
    meter, sampler = Meter(board, key_board(board, PLAN, tmp_path)), Sampler(PLAN, board.layout)
    samples = [sampler.sample(board.totals()[0], 0.0)]
    ctx = request(status=200, usage=Usage(completion_tokens=100), live_tokens=90)
    meter.in_progress({"chat": 90})
    samples.append(sampler.sample(board.totals()[0], 1.0))
    meter.observe(ctx)
    samples.append(sampler.sample(board.totals()[0], 2.0))
    meter.in_progress({})
    samples.append(sampler.sample(board.totals()[0], 3.0))

    assert [sample.models["chat"].generated_tokens for sample in samples] == [0, 90, 100, 100]
    assert model_rates(samples[0], samples[2], sampler.bounds)["chat"]["tokens_out_s"] == 50


def test_traffic_has_the_load_of_engines_and_gpus(board: Scoreboard) -> None:
    sampler = Sampler(PLAN, board.layout)
    sample = sampler.sample(board.totals()[0], 1.0)
    one = replica_state("chat-vllm", ReplicaStatus.READY, load=EngineLoad(running=3, waiting=1, kv_usage=0.41))
    gpu = GpuState(index=0, memory_used_bytes=5, memory_total_bytes=8)
    state = State(sequence=1, published_at=1.0, control_pid=1, replicas=(one,), gpus=(gpu,))
    document = traffic(sample, sample, sampler.bounds, state)
    assert document["replicas"]["chat-vllm"] == {"in_flight": 0, "kv": 0.41, "running": 3, "waiting": 1}
    assert document["gpus"] == [{"index": 0, "used": 5, "total": 8, "busy": None, "watts": None, "celsius": None}]


def test_one_sample_has_no_rates(board: Scoreboard) -> None:
    sampler = Sampler(PLAN, board.layout)
    sample = sampler.sample(board.totals()[0], 1.0)
    document = traffic(sample, sample, sampler.bounds, None)
    assert document["models"]["chat"]["requests_s"] == 0
    assert document["models"]["chat"]["ttft_p50_s"] is None
    assert document["gpus"] == []


@given(st.lists(st.integers(0, 1000), min_size=5, max_size=5), st.floats(0, 1))
def test_quantile_lies_in_the_bucket_that_has_it(counts: list[int], share: float) -> None:
    found = quantile(tuple(map(float, counts)), BOUNDS, share)
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    reached = accumulate(counts)
    place = next(
        at for at, (all_, own) in enumerate(zip(reached, counts, strict=True)) if own and all_ >= share * sum(counts)
    )
    assert (0.0, *BOUNDS)[place] - 1e-4 <= found <= (*BOUNDS, BOUNDS[-1])[place] + 1e-4


def test_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile((0, 0, 0, 0, 5), BOUNDS, 0.5) == 1.0
    assert quantile((10, 0, 0, 0, 0), BOUNDS, 0.5) == 0.05
