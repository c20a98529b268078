"""What engines say about their load, read in words common to all: from pages in Prometheus' format, and from JSON.

A figure that is not there, or is no plain number, is left out. Pages may be large, and may come from servers that are
not Berth's own: they are searched for the few series that count, and not parsed as a whole.
"""

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, TypeAlias

import orjson

from berth.state import EngineLoad

Figure: TypeAlias = Literal[
    "running",
    "waiting",
    "kv_usage",
    "prompt_tokens",
    "cached_tokens",
    "generation_tokens",
    "preemptions",
    "kv_block_tokens",
    "kv_blocks",
]
Series: TypeAlias = Mapping[bytes, Figure]  # the name of a series -> what it is

VLLM: Final[Series] = {
    b"vllm:num_requests_running": "running",
    b"vllm:num_requests_waiting": "waiting",
    b"vllm:kv_cache_usage_perc": "kv_usage",
    b"vllm:prompt_tokens_total": "prompt_tokens",
    b"vllm:prompt_tokens_cached_total": "cached_tokens",
    b"vllm:generation_tokens_total": "generation_tokens",
    b"vllm:num_preemptions_total": "preemptions",
}
SGLANG: Final[Series] = {
    b"sglang:num_running_reqs": "running",
    b"sglang:num_queue_reqs": "waiting",
    b"sglang:token_usage": "kv_usage",
    b"sglang:prompt_tokens_total": "prompt_tokens",
    b"sglang:cached_tokens_total": "cached_tokens",
    b"sglang:generation_tokens_total": "generation_tokens",
    b"sglang:num_retracted_requests_total": "preemptions",
    b"sglang:page_size": "kv_block_tokens",
    b"sglang:num_pages": "kv_blocks",
}
LLAMACPP: Final[Series] = {
    b"llamacpp:requests_processing": "running",
    b"llamacpp:requests_deferred": "waiting",
    b"llamacpp:kv_cache_usage_ratio": "kv_usage",  # of older builds
    b"llamacpp:prompt_tokens_total": "prompt_tokens",
    b"llamacpp:tokens_predicted_total": "generation_tokens",
}
TEI: Final[Series] = {b"te_queue_size": "waiting"}

_LARGEST: Final[frozenset[Figure]] = frozenset({"kv_usage", "kv_block_tokens"})  # of several, not their sum
_OTHER_RANK: Final = re.compile(rb'[{,](?:tp|pp|moe_ep)_rank="(?!0")')  # ranks of one copy say the same
_VLLM_CACHE: Final = re.compile(rb"^vllm:cache_config_info(\{[^\n]{0,16384})", re.MULTILINE)
_VLLM_CACHE_LABELS: Final[Mapping[Figure, re.Pattern[bytes]]] = {
    "kv_block_tokens": re.compile(rb'[{,]block_size="(\d{1,9})"'),
    "kv_blocks": re.compile(rb'[{,]num_gpu_blocks="(\d{1,12})"'),
}
_MOST: Final = float(1 << 53)  # above it a float is no exact count

_Figures: TypeAlias = dict[str, float]


def of_series(page: bytes, series: Series) -> EngineLoad | None:
    """From a page in Prometheus' format. Requests and tokens are summed over the copies of a data-parallel engine; the
    use of the KV cache is that of the fullest.
    """
    found: _Figures = {}
    for sample in _samples(tuple(series)).finditer(page):
        name, labels, value = sample.groups()
        if not _OTHER_RANK.search(labels):
            _add(found, series[name], value)
    if series is VLLM and (cache := _VLLM_CACHE.search(page)):
        for figure, label in _VLLM_CACHE_LABELS.items():
            if given := label.search(cache[1]):
                _add(found, figure, given[1])
    return _load(found)


def of_sglang_loads(page: bytes) -> EngineLoad | None:
    """From SGLang's JSON of loads, which its schedulers answer at once: on its metrics page these figures are those of
    the last line in its log.
    """
    found: _Figures = {}
    loads = _json(page, dict).get("loads")
    for load in loads if isinstance(loads, list) else ():
        if isinstance(load, dict):
            _add(found, "running", load.get("num_running_reqs"))
            _add(found, "waiting", load.get("num_waiting_reqs"))
            _add(found, "kv_usage", load.get("token_usage"))
    return _load(found)


def of_trtllm_iterations(page: bytes, before: EngineLoad | None) -> EngineLoad | None:
    """From TensorRT-LLM's JSON of the iterations since the last reader: the newest one counts. Without any it is idle,
    if it has reported iterations at all (`before`): with its statistics off it never does.
    """
    iterations = _json(page, list)
    if not iterations:
        return before and EngineLoad(running=0, waiting=0, kv_usage=before.kv_usage, cached_tokens=before.cached_tokens)
    newest = iterations[-1] if isinstance(iterations[-1], dict) else {}
    blocks = newest.get("kvCacheStats")
    found: _Figures = {}
    _add(found, "running", newest.get("numActiveRequests"))
    _add(found, "waiting", newest.get("numQueuedRequests"))
    if isinstance(blocks, dict):
        figures: _Figures = {}
        for name in ("usedNumBlocks", "maxNumBlocks", "tokensPerBlock", "reusedBlocks"):
            _add(figures, name, blocks.get(name))
        if figures.get("maxNumBlocks"):
            found["kv_usage"] = figures.get("usedNumBlocks", 0) / figures["maxNumBlocks"]
            found["kv_blocks"] = figures["maxNumBlocks"]
        if "tokensPerBlock" in figures:
            found["kv_block_tokens"] = figures["tokensPerBlock"]
            found["cached_tokens"] = figures.get("reusedBlocks", 0) * figures["tokensPerBlock"]
    return _load(found)


@cache
def _samples(names: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """The lines of these series: name, labels and value, without the time that may follow."""
    either = b"|".join(map(re.escape, names))
    return re.compile(rb"^(" + either + rb")(?![\w:])((?:\{[^\n]*\})?)[ \t]+(\S{1,40})", re.MULTILINE)


def _add(found: _Figures, figure: str, value: Any) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return
    if math.isfinite(number) and 0 <= number <= _MOST:
        before = found.get(figure, 0.0)
        found[figure] = max(before, number) if figure in _LARGEST else before + number


def _load(found: _Figures) -> EngineLoad | None:
    if not found:
        return None
    usage = found.pop("kv_usage", None)
    counts = {figure: int(number) for figure, number in found.items()}
    return EngineLoad(kv_usage=None if usage is None else min(usage, 1.0), **counts)


def _json(page: bytes, kind: type[Any]) -> Any:
    """The document; an empty one if it is of another kind, or no JSON."""
    try:
        document = orjson.loads(page)
    except orjson.JSONDecodeError:
        return kind()
    return document if isinstance(document, kind) else kind()
