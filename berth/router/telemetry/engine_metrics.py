"""What engines say about their load: for /metrics in Berth's words, and for /metrics/vllm in those of vLLM.

/metrics/vllm shows each model as one vLLM, for programs that know vLLM's metrics only: gateways that choose among many
machines, and autoscalers.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from berth.ipc.reserved_file import read
from berth.plan import ModelRoute, Plan
from berth.router.telemetry.status import Traffic
from berth.state import EngineLoad, ReplicaState, ReplicaStatus, TracerState

_LABELS: Final = ("replica", "model", "engine")
_GAUGES: Final = {
    "running": ("berth_engine_requests_running", "Requests in the engine's batch."),
    "waiting": ("berth_engine_requests_waiting", "Requests in the engine's own queue."),
    "kv_usage": ("berth_engine_kv_cache_usage_ratio", "Share of the engine's KV cache in use."),
}
_COUNTERS: Final = {
    "prompt_tokens": ("berth_engine_prompt_tokens", "Prompt tokens that the engine has processed."),
    "cached_tokens": ("berth_engine_cached_prompt_tokens", "Prompt tokens that were in the engine's KV cache already."),
    "generation_tokens": ("berth_engine_generation_tokens", "Tokens that the engine has generated."),
    "preemptions": ("berth_engine_preemptions", "Requests that lost their place in the engine's KV cache."),
}

_VLLM_LABELS: Final = ("engine", "model_name")
VLLM: Final = {  # the text, and further labels
    "num_requests_running": ("Requests in the engines' batches.",),
    "num_requests_waiting": ("Requests in Berth's queue and in those of the engines.",),
    "kv_cache_usage_perc": ("Share of the KV cache in use, from 0 to 1: that of the fullest engine.",),
    "cache_config_info": ("The KV cache.", "block_size", "num_gpu_blocks"),
    "lora_requests_info": (
        *("The adapters that are loaded. The value is the time.", "max_lora"),
        *("running_lora_adapters", "waiting_lora_adapters"),
    ),
}


def engine_metrics(plan: Plan, statuses: Mapping[str, ReplicaState]) -> Iterator[Metric]:
    """An engine that does not say a figure has no sample of it."""
    replicas = [((one.name, one.model, one.engine.value), statuses[one.name]) for one in plan.replicas]
    for kind, figures in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
        for figure, (name, text) in figures.items():
            metric = kind(name, text, labels=_LABELS)
            for values, state in replicas:
                if (value := getattr(state.load, figure, None)) is not None:
                    metric.add_metric(values, value)
            yield metric
    failures = CounterMetricFamily(
        "berth_engine_load_failures", "Times that a serving engine did not say how busy it is.", labels=_LABELS
    )
    for values, state in replicas:
        failures.add_metric(values, state.load_failures)
    yield failures


def tracer_metrics(path: Path) -> Iterator[Metric]:
    """What the tracer says in that file; nothing before it has."""
    try:
        state = msgspec.json.decode(read(path), type=TracerState)
    except (OSError, msgspec.MsgspecError):
        state = TracerState()
    sent = CounterMetricFamily("berth_trace_spans_sent", "Spans that the collector has taken.")
    dropped = CounterMetricFamily("berth_trace_spans_dropped", "Spans that were lost.")
    sent.add_metric((), state.sent)
    dropped.add_metric((), state.dropped)
    yield from (sent, dropped)


def vllm_metrics(routes: Sequence[ModelRoute], statuses: Mapping[str, ReplicaState], traffic: Traffic) -> list[Metric]:
    """Five families of vLLM's. An engine that does not say how many requests it runs runs those that Berth has sent."""
    families = {
        name: GaugeMetricFamily(f"vllm:{name}", text, labels=(*_VLLM_LABELS, *labels))
        for name, (text, *labels) in VLLM.items()
    }
    for route in routes:
        values = ("0", route.name)
        serving = [name for name in route.replicas if statuses[name].status is ReplicaStatus.READY]
        loads = {name: statuses[name].load or EngineLoad() for name in serving}
        busy = [traffic.loads.get(name, 0) if load.running is None else load.running for name, load in loads.items()]
        queued = [traffic.queues.get(route.name, 0), *(load.waiting or 0 for load in loads.values())]
        families["num_requests_running"].add_metric(values, sum(busy))
        families["num_requests_waiting"].add_metric(values, sum(queued))
        if shares := [load.kv_usage for load in loads.values() if load.kv_usage is not None]:
            families["kv_cache_usage_perc"].add_metric(values, max(shares))
        if caches := [one for one in loads.values() if one.kv_block_tokens and one.kv_blocks]:  # one vLLM has one
            blocks = (str(caches[0].kv_block_tokens), str(caches[0].kv_blocks))
            families["cache_config_info"].add_metric((*values, *blocks), 1)
        if route.adapters and serving:
            names = ",".join(adapter.name for adapter in route.adapters)
            families["lora_requests_info"].add_metric((*values, str(len(route.adapters)), names, ""), time.time())
    return list(families.values())
