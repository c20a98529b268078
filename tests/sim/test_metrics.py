from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from berth.sim import metrics
from berth.sim.dialect import EngineStats
from tests.fakes.recordings import recording

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
    assert line in metrics.vllm(FIGURES, 'm"x', 100)


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


def families(text: str) -> Mapping[str, tuple[str, Mapping[str, set[str]]]]:
    """The type of each family, and the labels of its samples."""
    return {
        family.name: (family.type, {sample.name: set(sample.labels) for sample in family.samples})
        for family in text_string_to_metric_families(text)
    }


@pytest.mark.parametrize(
    ("recorded", "simulated"),
    [
        ("vllm/metrics/after_traffic", metrics.vllm(FIGURES, "m", 100)),
        ("sglang/metrics/after", metrics.sglang(FIGURES, "m", 100)),
    ],
)
def test_series_have_the_types_and_labels_of_the_engine(recorded: str, simulated: str) -> None:
    real = families(recording(recorded).answer.decode())
    for name, (kind, samples) in families(simulated).items():
        assert real[name][0] == kind
        for sample, labels in samples.items():
            assert labels <= real[name][1][sample]
            if sample != "vllm:cache_config_info":  # of whose thirty labels two are simulated
                assert labels == real[name][1][sample]


def test_reasons_of_vllm_are_complete() -> None:
    def reasons(text: str) -> set[str]:
        (family,) = (one for one in text_string_to_metric_families(text) if one.name == "vllm:request_success")
        return {sample.labels["finished_reason"] for sample in family.samples}

    assert reasons(metrics.vllm(FIGURES, "m", 100)) == reasons(recording("vllm/metrics/after_traffic").answer.decode())


def test_sglang_has_no_counts_before_the_first_request() -> None:
    assert "prompt_tokens_total" not in metrics.sglang(EngineStats(started=0.0), "m", 100)
