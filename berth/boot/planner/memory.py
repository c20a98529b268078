"""Formulas for the memory that a model needs.

    weights per GPU    = bytes of the weight files / tensor-parallel GPUs
    KV cache per token = 2 (key and value) x layers x KV heads per GPU x head dimension x bytes per element
                         MLA: layers x (kv_lora_rank + qk_rope_head_dim) x bytes per element, whole on every GPU
    KV heads per GPU   = KV heads / GPUs, at least 1: with more GPUs than KV heads they are copied
    total per GPU      = weights + KV cache + the engine's overhead

All sizes are bytes per GPU. Layers with a sliding window or linear attention count as full attention: the estimate
is then too high, never too low.
"""

import math
import re
from dataclasses import replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.engines import lora
from berth.plan import MemoryEstimate
from berth.units import size

DTYPE_BYTES = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "fp8": 1.0,
    "int8": 1.0,
}
DEFAULT_DTYPE_BYTES = 2.0
USABLE_KV = 0.95  # of a KV cache; the rest is lost to block rounding and an inexact overhead
CONTEXT_STEP = 256  # contexts that Berth chooses are multiples of it

# For a model known only by its name: bytes per parameter by a word in the name, else 16 bits.
PACKED = (
    (re.compile(r"(?i)(awq|gptq|int4|w4a16|4bit|4-bit|nvfp4|mxfp4|fp4|bnb)"), 0.6),
    (re.compile(r"(?i)(fp8|int8|w8a8|8bit|8-bit)"), 1.05),
)
PARAMETERS = re.compile(r"(?i)(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
GUESSED_KV_BYTES_PER_TOKEN = 256 * 1024
GUESSED_KV_BYTES_PER_TOKEN_LARGE = 512 * 1024
LARGE_WEIGHTS_BYTES = 40 * 10**9
# Inputs and outputs of a layer's linear parts, in hidden sizes: 2 each for query and output, up to 2 each for key and
# value, and 5 each for the three of an MLP that is four times as wide.
LORA_WIDTH = 23


def guessed(info: ModelInfo) -> ModelInfo:
    """`info` with the size of its weights estimated from its name if unknown, and a warning about that."""
    if info.weights_bytes is not None:
        return info
    weights = weights_from_name(info.source)
    if weights is None:
        note = "the size of its weights is unknown, also from its name: it gets its GPUs to itself"
    else:
        note = f"the size of its weights is only estimated from its name ({size(weights)})"
    return replace(info, weights_bytes=weights, warnings=(*info.warnings, note))


def weights_from_name(source: str) -> int | None:
    """Bytes of the weights of "Qwen3-8B", "Mixtral-8x7B", "Qwen3-30B-A3B-FP8": the largest count in the name."""
    name = source.rstrip("/").rsplit("/", 1)[-1]
    counts = [
        int(times or 1) * float(number) * (10**9 if unit in "bB" else 10**6)
        for times, number, unit in PARAMETERS.findall(name)
    ]
    if not counts:
        return None
    per_parameter = next((bytes_ for pattern, bytes_ in PACKED if pattern.search(name)), DEFAULT_DTYPE_BYTES)
    return int(max(counts) * per_parameter)


def weights_per_gpu(info: ModelInfo, *, gpus: int) -> int:
    """0 where the size is unknown. `gpus` 0 means the CPU, which holds all weights."""
    return math.ceil((info.weights_bytes or 0) / max(gpus, 1))


def kv_bytes_per_token(info: ModelInfo, *, gpus: int, kv_dtype: str | None = None) -> int:
    """Bytes of KV cache per token on each GPU; 0 for encoders. `kv_dtype` None: the model's own."""
    if info.encoder_only:
        return 0
    element = DTYPE_BYTES.get(kv_dtype or info.dtype or "", DEFAULT_DTYPE_BYTES)
    if info.layers and info.latent_dim:
        return math.ceil(info.layers * info.latent_dim * element)
    if not (info.layers and info.kv_heads and info.head_dim):
        large = (info.weights_bytes or 0) > LARGE_WEIGHTS_BYTES
        guess = GUESSED_KV_BYTES_PER_TOKEN_LARGE if large else GUESSED_KV_BYTES_PER_TOKEN
        return math.ceil(guess / max(gpus, 1))
    heads = math.ceil(info.kv_heads / max(gpus, 1))
    return math.ceil(2 * info.layers * heads * info.head_dim * element)


def adapter_bytes(info: ModelInfo) -> int:
    """Per GPU, for the LoRA adapters of one batch: a slot for each adapter, at most MOST_AT_ONCE, each for the largest
    rank on every linear layer. Tensor parallelism divides less than half of it, so it counts in full. 0 without
    adapters.
    """
    if not info.adapters:
        return 0
    rank = lora.rank(info.adapters)
    files = [(adapter.weights_bytes or 0) * rank // (adapter.rank or rank) for adapter in info.adapters]
    element = DTYPE_BYTES.get(info.dtype or "", DEFAULT_DTYPE_BYTES)
    known = info.layers and info.hidden_size
    every_layer = (info.layers or 0) * LORA_WIDTH * (info.hidden_size or 0) * rank * element
    each = max(every_layer, *files) if known else max(2 * bytes_ for bytes_ in files)
    return math.ceil(each) * lora.slots(info.adapters)


def kv_bytes_for(info: ModelInfo, *, gpus: int, context: int) -> int:
    """KV cache per GPU for one sequence of `context` tokens."""
    return math.ceil(kv_bytes_per_token(info, gpus=gpus) * context / USABLE_KV)


def largest_context(info: ModelInfo, *, gpus: int, kv_bytes: int, default: int) -> int:
    """Tokens of one sequence that a KV cache of `kv_bytes` per GPU holds, up to the model's limit, or up to `default`
    where that is unknown.
    """
    limit = info.max_position or default
    per_token = kv_bytes_per_token(info, gpus=gpus)
    if per_token == 0:
        return limit
    tokens = int(kv_bytes * USABLE_KV / per_token + 1e-6)
    return min(limit, tokens - tokens % CONTEXT_STEP if tokens > CONTEXT_STEP else tokens)


def estimate(info: ModelInfo, *, gpus: int, kv_bytes: int, overhead_bytes: int, default_context: int) -> MemoryEstimate:
    """What one replica needs on each of its GPUs with a KV cache of `kv_bytes`."""
    return MemoryEstimate(
        weights_bytes=weights_per_gpu(info, gpus=gpus),
        kv_bytes_per_token=kv_bytes_per_token(info, gpus=gpus),
        kv_bytes=kv_bytes,
        overhead_bytes=overhead_bytes,
        largest_context=largest_context(info, gpus=gpus, kv_bytes=kv_bytes, default=default_context),
    )
