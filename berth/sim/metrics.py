"""The metrics pages of the engines: the series that routers and dashboards use."""

import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping

from berth.sim.body_validation import Json
from berth.sim.dialect import EngineStats

_BOUNDS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
_REASONS = ("stop", "length", "abort", "error")
_VLLM_REASONS = (*_REASONS, "repetition")
_BLOCK_TOKENS = 16  # vLLM's default on a GPU
BLOCKS = 1000  # of TensorRT-LLM's simulated KV cache


def vllm(stats: EngineStats, model: str, capacity: int) -> str:
    labels = {"engine": "0", "model_name": model}
    finished = [({**labels, "finished_reason": reason}, stats.finished.get(reason, 0)) for reason in _VLLM_REASONS]
    waiting = [({**labels, "reason": "capacity"}, stats.waiting), ({**labels, "reason": "deferred"}, 0)]
    cache = {"engine": "0", "block_size": str(_BLOCK_TOKENS), "num_gpu_blocks": str(capacity // _BLOCK_TOKENS)}
    return "".join(
        [
            _series("vllm:num_requests_running", "gauge", [(labels, stats.running)]),
            _series("vllm:num_requests_waiting", "gauge", [(labels, stats.waiting)]),
            _series("vllm:num_requests_waiting_by_reason", "gauge", waiting),
            _series("vllm:kv_cache_usage_perc", "gauge", [(labels, stats.kv_usage)]),
            _series("vllm:prefix_cache_queries_total", "counter", [(labels, stats.prompt_tokens)]),
            _series("vllm:prefix_cache_hits_total", "counter", [(labels, stats.cached_tokens)]),
            _series("vllm:num_preemptions_total", "counter", [(labels, 0)]),
            _series("vllm:prompt_tokens_total", "counter", [(labels, stats.prompt_tokens)]),
            _series("vllm:prompt_tokens_cached_total", "counter", [(labels, stats.cached_tokens)]),
            _series("vllm:generation_tokens_total", "counter", [(labels, stats.generation_tokens)]),
            _series("vllm:request_success_total", "counter", finished),
            _histogram("vllm:time_to_first_token_seconds", labels, stats.first_token_s),
            _series("vllm:cache_config_info", "gauge", [(cache, 1)]),
        ]
    )


def sglang(stats: EngineStats, model: str, capacity: int) -> str:
    labels = {"engine_type": "unified", "model_name": model}
    ranks = {**labels, "moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
    streaming = {**labels, "is_streaming": "false"}  # the simulation does not count its streams apart
    counts: list[str] = []
    if stats.requests:  # before the first request these do not exist
        counts = [
            _series("sglang:prompt_tokens_total", "counter", [(streaming, stats.prompt_tokens)]),
            _series("sglang:generation_tokens_total", "counter", [(streaming, stats.generation_tokens)]),
            _series("sglang:num_requests_total", "counter", [(streaming, stats.requests)]),
            _histogram("sglang:time_to_first_token_seconds", streaming, stats.first_token_s),
        ]
    return "".join(
        [
            *counts,
            _series("sglang:max_total_num_tokens", "gauge", [(ranks, capacity)]),
            _series("sglang:page_size", "gauge", [(ranks, 1)]),
            _series("sglang:num_pages", "gauge", [(ranks, capacity)]),
            _series("sglang:num_running_reqs", "gauge", [(ranks, stats.running)]),
            _series("sglang:num_queue_reqs", "gauge", [(ranks, stats.waiting)]),
            _series("sglang:cache_hit_rate", "gauge", [(ranks, 0)]),
            _series("sglang:token_usage", "gauge", [(ranks, round(stats.kv_usage, 2))]),
            _series("sglang:num_used_tokens", "gauge", [(ranks, round(stats.kv_usage * capacity))]),
        ]
    )


def sglang_load(stats: EngineStats, capacity: int, most_running: int) -> Json:
    """The entry of the only rank in SGLang's JSON of loads."""
    used = round(stats.kv_usage * capacity)
    return {
        "timestamp": time.time(),
        "dp_rank": 0,
        "num_running_reqs": stats.running,
        "num_waiting_reqs": stats.waiting,
        "num_used_tokens": used,
        "num_total_tokens": used,
        "max_total_num_tokens": capacity,
        "max_running_requests": most_running,
        "token_usage": stats.kv_usage,
        "gen_throughput": 0.0,
        "cache_hit_rate": 0.0,
        "utilization": stats.running / most_running,
    }


def trtllm(stats: EngineStats) -> str:
    labels = {"model_name": "undefined", "engine_type": "undefined"}
    finished = [({**labels, "finished_reason": reason}, stats.finished.get(reason, 0)) for reason in _REASONS]
    return "".join(
        [
            _series("trtllm_request_success_total", "counter", finished),
            _histogram("trtllm_time_to_first_token_seconds", labels, stats.first_token_s),
        ]
    )


def trtllm_iteration(stats: EngineStats, number: int) -> Json:
    """One entry of TensorRT-LLM's JSON metrics."""
    used = round(stats.kv_usage * BLOCKS)
    return {
        "iter": number,
        "iterLatencyMS": 5.0,
        "numActiveRequests": stats.running,
        "numQueuedRequests": stats.waiting,
        "maxNumActiveRequests": 2048,
        "gpuMemUsage": 0,
        "kvCacheStats": {
            "usedNumBlocks": used,
            "maxNumBlocks": BLOCKS,
            "freeNumBlocks": BLOCKS - used,
            "tokensPerBlock": 32,
            "cacheHitRate": 0.0,
            "reusedBlocks": 0,
            "missedBlocks": 0,
        },
        "inflightBatchingStats": {
            "numScheduledRequests": stats.running,
            "numContextRequests": 0,
            "numGenRequests": stats.running,
            "numPausedRequests": 0,
        },
    }


def _series(name: str, kind: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"{name}{_labels(labels)} {float(value)}\n" for labels, value in samples]
    return f"# HELP {name} Simulated.\n# TYPE {name} {kind}\n" + "".join(lines)


def _histogram(name: str, labels: Mapping[str, str], values: tuple[float, ...]) -> str:
    ordered = sorted(values)
    buckets = [(str(bound), bisect_right(ordered, bound)) for bound in _BOUNDS_S] + [("+Inf", len(ordered))]
    lines = [f"{name}_bucket{_labels({**labels, 'le': bound})} {float(count)}\n" for bound, count in buckets]
    lines.append(f"{name}_count{_labels(labels)} {float(len(ordered))}\n")
    lines.append(f"{name}_sum{_labels(labels)} {sum(ordered)}\n")
    return f"# HELP {name} Simulated.\n# TYPE {name} histogram\n" + "".join(lines)


def _labels(labels: Mapping[str, str]) -> str:
    def quoted(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in sorted(labels.items())) + "}"
