"""Engines' load in /metrics and in /metrics/vllm."""

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from berth.plan import Adapter, DialectName, EngineName
from berth.router.telemetry.engine_metrics import engine_metrics, vllm_metrics
from berth.router.telemetry.metrics import text_of
from berth.router.telemetry.status import Traffic
from berth.state import EngineLoad, ReplicaStatus
from tests.fakes.router import make_plan, replica, replica_state

FULL = EngineLoad(
    measured_at=5.0,
    running=2,
    waiting=3,
    kv_usage=0.25,
    prompt_tokens=40,
    cached_tokens=8,
    generation_tokens=50,
    preemptions=1,
    kv_block_tokens=16,
    kv_blocks=100,
)
VLLM = replica("chat-vllm", "http://127.0.0.1:1")
SGLANG = replace(replica("chat-sglang", "http://127.0.0.1:2"), engine=EngineName.SGLANG, dialect=DialectName.SGLANG)
PLAN = make_plan("/run", [VLLM, SGLANG])
R = ReplicaStatus


def series(text: bytes) -> dict[str, dict[tuple[str, ...], float]]:
    """Of each name: label values in the labels' order -> number."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_engines_have_one_vocabulary() -> None:
    statuses = {
        VLLM.name: replica_state(VLLM.name, R.READY, load=FULL, load_failures=4),
        SGLANG.name: replica_state(SGLANG.name, R.READY, load=EngineLoad(running=0)),
    }
    seen = series(text_of(list(engine_metrics(PLAN, statuses))))
    one, other = ("vllm", "chat", "chat-vllm"), ("sglang", "chat", "chat-sglang")
    assert seen == {
        "berth_engine_requests_running": {one: 2, other: 0},
        "berth_engine_requests_waiting": {one: 3},
        "berth_engine_kv_cache_usage_ratio": {one: 0.25},
        "berth_engine_prompt_tokens_total": {one: 40},
        "berth_engine_cached_prompt_tokens_total": {one: 8},
        "berth_engine_generation_tokens_total": {one: 50},
        "berth_engine_preemptions_total": {one: 1},
        "berth_engine_load_failures_total": {one: 4, other: 0},
    }


def test_model_is_one_vllm() -> None:
    statuses = {
        VLLM.name: replica_state(VLLM.name, R.READY, load=FULL),
        SGLANG.name: replica_state(SGLANG.name, R.READY, load=EngineLoad(kv_usage=0.75)),
    }
    traffic = Traffic(loads={VLLM.name: 9, SGLANG.name: 5}, queues={"chat": 10})
    adapter = Adapter(name="chat:fr", source="x", rank=8)
    route = replace(PLAN.models[0], adapters=(adapter, replace(adapter, name="chat:de")))
    seen = series(text_of(vllm_metrics([route], statuses, traffic)))
    (lora,) = seen.pop("vllm:lora_requests_info")
    assert lora == ("0", "2", "chat", "chat:fr,chat:de", "")
    assert seen == {
        "vllm:num_requests_running": {("0", "chat"): 2 + 5},  # one does not say how many it runs
        "vllm:num_requests_waiting": {("0", "chat"): 3 + 10},
        "vllm:kv_cache_usage_perc": {("0", "chat"): 0.75},
        "vllm:cache_config_info": {("16", "0", "chat", "100"): 1},
    }


def test_replicas_that_do_not_serve_do_not_count() -> None:
    statuses = {
        VLLM.name: replica_state(VLLM.name, R.DRAINING, load=FULL),
        SGLANG.name: replica_state(SGLANG.name, R.STANDBY),
    }
    seen = series(text_of(vllm_metrics(PLAN.models, statuses, Traffic(loads={VLLM.name: 9}, queues={"chat": 1}))))
    assert seen == {
        "vllm:num_requests_running": {("0", "chat"): 0},
        "vllm:num_requests_waiting": {("0", "chat"): 1},
    }
