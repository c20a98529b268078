"""What an engine says at its start about the memory that it takes, read from its log. Pure.

The patterns match the output of vLLM 0.33 and SGLang 0.5.23. TensorRT-LLM's lines are not read. Of several GPUs, the
most weights and the least cache count.
"""

import re
from dataclasses import dataclass, replace

from berth.engines.cli_arguments import option
from berth.plan import EngineName, Plan, Replica
from berth.records.measured import Measurement
from berth.units import GIB

_FEW = 1000  # characters; a longer line is a dump of the configuration
_ALONE = 0.8  # of a GPU: with less there are neighbours, whose memory SGLang's figures would include
# Options that set the cache's size, so that the rest of the budget is not the overhead.
_SIZED = ("--kv-cache-memory-bytes", "--num-gpu-blocks-override", "--max-total-tokens")

_VLLM = {
    "weights": re.compile(r"Model loading took (?P<weights>[\d.]+) GiB"),
    "kv": re.compile(r"Available KV cache memory: (?P<kv>[\d.]+) GiB"),
    "graphs": re.compile(r"Graph capturing finished in .* took (?P<graphs>[\d.]+) GiB"),
    "tokens": re.compile(r"KV cache size: (?P<tokens>[\d,]+) tokens.* for (?P<context>[\d,]+) tokens per request"),
}
_SGLANG = {
    "weights": re.compile(r"Load weight end\..*avail mem=(?P<free>[\d.]+) GB, mem usage=(?P<weights>[\d.]+) GB"),
    "pool": re.compile(r"Memory pool end\. avail mem=(?P<left>[\d.]+) GB"),
    "end": re.compile(
        r"max_total_num_tokens=(?P<tokens>\d+),.* context_len=(?P<context>\d+), available_gpu_mem=(?P<end>[\d.]+) GB"
    ),
}
_PATTERNS = (*_VLLM.values(), *_SGLANG.values())
_WORDS = ("loading took", "KV cache", "Graph capturing", "Load weight end", "Memory pool end", "available_gpu_mem")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartMemory:
    """What the lines so far say, in GiB per GPU. 0: not said yet."""

    weights: float = 0
    kv: float = 0
    graphs: float = 0
    tokens: int = 0
    context: int = 0
    free: float = 0  # SGLang: what is free after the weights,
    left: float = 0  # after the cache,
    end: float = 0  # and when it is ready


def after_line(memory: StartMemory, line: str) -> StartMemory:
    """The same object where the line says nothing about memory."""
    if len(line) > _FEW or not any(words in line for words in _WORDS):
        return memory
    found = next(filter(None, (pattern.search(line) for pattern in _PATTERNS)), None)
    if found is None:
        return memory
    try:
        said = {name: float(text.replace(",", "")) for name, text in found.groupdict().items()}
    except ValueError:  # "1.2.3"
        return memory
    weights = max(said.get("weights", 0), memory.weights)
    kv = min(filter(None, (said.get("kv", 0), memory.kv)), default=0)
    counts = {name: int(said.pop(name)) for name in ("tokens", "context") if name in said}
    return replace(memory, **(said | counts | {"weights": weights, "kv": kv}))  # type: ignore[arg-type] # by its names


def measurement(memory: StartMemory, replica: Replica, plan: Plan, now: int) -> Measurement | None:
    """What is to be kept of a start. None: the log does not say all, or the figures contradict each other."""
    totals = [gpu.memory_total_bytes for gpu in plan.inventory.gpus if gpu.index in replica.gpus]
    argv = replica.launch.argv if replica.launch else ()
    if replica.measured_as is None or not totals or option(argv, *_SIZED) is not None:
        return None
    if replica.engine is EngineName.SGLANG:
        alone = (replica.memory_fraction or 0) >= _ALONE
        kv, budget = memory.free - memory.left, min(totals) / GIB - memory.end if alone and memory.end else 0.0
    else:
        kv, budget = memory.kv, min(totals) / GIB * utilization(argv)
    overhead = budget - memory.weights - kv
    if min(memory.weights, kv) <= 0 or overhead < 0:
        return None
    found = Measurement(
        of=replica.measured_as,
        at=now,
        weights_bytes=int(memory.weights * GIB),
        overhead_bytes=int(overhead * GIB),
        graphs_bytes=int(memory.graphs * GIB),
        kv_bytes=int(kv * GIB),
        kv_tokens=memory.tokens,
        context=memory.context,
    )
    return found if found.sound else None


def utilization(argv: tuple[str, ...]) -> float:
    """The share of the GPU that vLLM was given; the user's arguments come last, and win."""
    try:
        return float(option(argv, "--gpu-memory-utilization") or 0)
    except ValueError:
        return 0.0
