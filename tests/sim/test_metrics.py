import pytest

from berth.sim import metrics
from berth.sim.dialect import EngineStats

FIGURES = EngineStats(
    started=0.0,
    running=2,
    waiting=3,
    kv_usage=0.25,
    prompt_tokens=40,
    generation_tokens=50,
    finished={"stop": 4},
    first_token_s=(0.003, 0.3, 99.0),
    requests=7,
)


@pytest.mark.parametrize(
    "line",
    [
        '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0",model_name="m\\"x"} 2.0',
        'vllm:num_requests_waiting{engine="0",model_name="m\\"x"} 3.0',
        'vllm:kv_cache_usage_perc{engine="0",model_name="m\\"x"} 0.25',
        'vllm:request_success_total{engine="0",finished_reason="stop",model_name="m\\"x"} 4.0',
        'vllm:time_to_first_token_seconds_bucket{engine="0",le="0.25",model_name="m\\"x"} 1.0',
        'vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m\\"x"} 3.0',
        'vllm:time_to_first_token_seconds_count{engine="0",model_name="m\\"x"} 3.0',
    ],
)
def test_vllm_exposes_its_series(line: str) -> None:
    assert line in metrics.vllm(FIGURES, 'm"x')


@pytest.mark.parametrize(
    "name", ["num_running_reqs", "num_queue_reqs", "token_usage", "max_total_num_tokens", "num_requests_total"]
)
def test_sglang_exposes_its_series(name: str) -> None:
    assert f"\nsglang:{name}{{engine_type=" in metrics.sglang(FIGURES, "m", 100)


def test_sglang_has_the_load_of_its_rank() -> None:
    load = metrics.sglang_load(FIGURES, 100, 8)
    assert (load["num_running_reqs"], load["num_waiting_reqs"], load["num_used_tokens"]) == (2, 3, 25)
    assert (load["max_total_num_tokens"], load["max_running_requests"], load["utilization"]) == (100, 8, 0.25)


def test_tensorrt_llm_exposes_its_series_and_iterations() -> None:
    assert "trtllm_request_success_total{" in metrics.trtllm(FIGURES)
    entry = metrics.trtllm_iteration(FIGURES, 5)
    assert (entry["iter"], entry["numActiveRequests"], entry["numQueuedRequests"]) == (5, 2, 3)
    assert entry["kvCacheStats"]["usedNumBlocks"] == 250
