"""Formulas for the memory that a model needs.

    weights per GPU = bytes of the weight files / tensor-parallel GPUs, with the padding of MXFP4's kernels
    KV cache        = what one request of the context holds, by the layout of the engine (`kv_layout`)
    total per GPU   = weights + KV cache + the engine's overhead

All sizes are bytes per GPU.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from berth.boot.checkpoints.cache_layers import LayerKind
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.planner.fit.kv_layout import KvLayout, UniformLayout, longest, paged_layout, pool_layout
from berth.engines import lora
from berth.engines.base import Drafter, KvDtype, ModelOptions
from berth.engines.cli_arguments import names, number, option
from berth.engines.model_options import draft_tokens, without_arguments
from berth.engines.vllm import BATCH_TOKENS, batch_tokens
from berth.plan import Adapter, EngineName, Gpu, MemoryEstimate
from berth.units import size

DTYPE_BYTES = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "int8": 1.0,
}
DEFAULT_DTYPE_BYTES = 2.0
# By the beginning of `--kv-cache-dtype`: bytes per element, and those of a scale per head, token, and key or value.
KV_DTYPES = {
    "int8_per_token_head": (1.0, 4),
    "fp8": (1.0, 0),
    "int8": (1.0, 0),
    "nvfp4": (0.5625, 0),
    "fp4": (0.5625, 0),
}
SETTING_DTYPES = {KvDtype.FP8: "fp8", KvDtype.SIXTEEN_BITS: "bfloat16"}
NO_PREFIX_CACHE = ("--no-enable-prefix-caching", "--disable-prefix-caching", "--disable-radix-cache")
MXFP4_PADDING = 1.086  # gpt-oss-120b: files of 60.77 GiB take 65.97 GiB with Marlin's kernels
MXFP4_BYTES_PER_BATCH_TOKEN = 820 * 1024  # gpt-oss-120b on an H100 takes 7.8 GiB with batches of 8,192 tokens
SMALL_CARD_BYTES = 33 << 29  # 16 GB cards: 1.6 GiB with a 7B model
SMALL_CARD_SAVES = 1 << 30
USABLE_KV = 0.99  # of a KV cache; the layout is exact, the overhead is not
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


def card_overhead(info: ModelInfo, *, card_bytes: int, batch_tokens: int) -> int:
    """What vLLM takes of this card more (or less) than usual, as start-up logs show."""
    small = -SMALL_CARD_SAVES if card_bytes <= SMALL_CARD_BYTES else 0
    beyond = max(batch_tokens - BATCH_TOKENS, 0) if info.quantization == "mxfp4" else 0
    return small + beyond * MXFP4_BYTES_PER_BATCH_TOKEN


def guessed(info: ModelInfo) -> ModelInfo:
    """`info` with the size of its weights estimated from its name if unknown, and a warning about that."""
    if info.weights_bytes is not None:
        return info
    weights = weights_from_name(info.source)
    if weights is None:
        note = "the size of its weights is unknown, also from its name: it gets its GPUs to itself"
    else:
        note = f"the size of its weights is only estimated from its name ({size(weights)})"
    return replace(info, weights_bytes=weights, guessed_weights=True, warnings=(*info.warnings, note))


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
    padding = MXFP4_PADDING if info.quantization == "mxfp4" else 1
    return math.ceil((info.weights_bytes or 0) * padding / max(gpus, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """What the user's arguments for an engine change about its KV cache."""

    kv_dtype: str | None = None  # None: the checkpoint's
    batch_tokens: int | None = None  # None: vLLM's default for the card
    draft_tokens: int = 0  # predicted at once by speculation
    drafter: bool = True  # the draft has layers with a cache of their own; without, it is the prompt's text
    prefix_cache: bool = True

    @classmethod
    def of(
        cls,
        arguments: Sequence[str],
        *,
        engine: EngineName = EngineName.VLLM,
        options: ModelOptions | None = None,
    ) -> "CacheOptions":
        """The user's arguments win over the model's settings."""
        given = without_arguments(engine, options or ModelOptions(), arguments)
        tokens, drafter = draft_of(arguments)
        if given.speculation:
            tokens, drafter = draft_tokens(engine, given), given.speculation.drafter is not Drafter.NGRAM
        return cls(
            kv_dtype=option(arguments, "--kv-cache-dtype") or SETTING_DTYPES.get(given.kv_dtype),
            batch_tokens=number(arguments, "--max-num-batched-tokens"),
            draft_tokens=tokens,
            drafter=drafter,
            prefix_cache=given.prefix_cache is not False and not names(arguments, *NO_PREFIX_CACHE),
        )

    def batch_on(self, card: Gpu | None) -> int:
        """Tokens."""
        return self.batch_tokens or batch_tokens([card] if card else [])


def draft_of(arguments: Sequence[str]) -> tuple[int, bool]:
    """The tokens, and whether layers predict them, by vLLM's JSON or SGLang's options. No tokens: no speculation, or
    the engine will reject what is written.
    """
    tokens = number(arguments, "--speculative-num-draft-tokens", "--speculative-num-steps") or 0
    layers = (option(arguments, "--speculative-algorithm") or "").upper() != "NGRAM"
    try:
        given = json.loads(option(arguments, "--speculative-config") or "{}")
    except ValueError:
        return tokens, layers
    count = given.get("num_speculative_tokens") if isinstance(given, dict) else None
    if not isinstance(count, int) or count <= 0:
        return tokens, layers
    return count, given.get("method") not in ("ngram", "ngram_gpu", "suffix")


def kv_layout(
    info: ModelInfo, *, engine: EngineName, gpus: int, options: CacheOptions, card: Gpu | None = None
) -> KvLayout | None:
    """The engine's KV cache on each GPU; None for encoders, which have none."""
    if info.encoder_only:
        return None
    if not info.cache_layers:
        large = (info.weights_bytes or 0) > LARGE_WEIGHTS_BYTES
        guess = GUESSED_KV_BYTES_PER_TOKEN_LARGE if large else GUESSED_KV_BYTES_PER_TOKEN
        return UniformLayout(bytes_per_token=math.ceil(guess / max(gpus, 1)))
    element, scale = kv_element(info, options.kv_dtype)
    layers = info.cache_layers
    if not options.prefix_cache:
        layers = tuple(replace(one, states=1) if one.kind is LayerKind.RECURRENT else one for one in layers)
    if options.draft_tokens and options.drafter:  # a draft model's own layers are unknown: one like the model's
        layers += info.draft_layers or tuple(one for one in layers if one.kind is LayerKind.FULL)[-1:]
    if engine is EngineName.SGLANG:
        return pool_layout(layers, gpus=gpus, element_bytes=element, scale_bytes=scale)
    return paged_layout(
        layers,
        gpus=gpus,
        element_bytes=element,
        scale_bytes=scale,
        weight_bytes=DTYPE_BYTES.get(info.dtype or "", DEFAULT_DTYPE_BYTES),
        in_flight=options.batch_on(card) * (2 if gpus else 1),
        draft_tokens=options.draft_tokens,
    )


def kv_element(info: ModelInfo, kv_dtype: str | None) -> tuple[float, int]:
    """Bytes per element, and those of a scale per head and token."""
    chosen = kv_dtype if kv_dtype not in (None, "auto") else info.kv_dtype
    if chosen is None:
        return DTYPE_BYTES.get(info.dtype or "", DEFAULT_DTYPE_BYTES), 0
    found = next((figures for name, figures in KV_DTYPES.items() if chosen.startswith(name)), None)
    return found or (DTYPE_BYTES.get(chosen, DEFAULT_DTYPE_BYTES), 0)


def adapter_bytes(info: ModelInfo, spare: Sequence[Adapter] = ()) -> int:
    """Per GPU, for the LoRA adapters of one batch: a slot for each adapter, at most MOST_AT_ONCE, each for the largest
    rank on every linear layer. Tensor parallelism divides less than half of it, so it counts in full. 0 without
    adapters. `spare`: further ones that may be added.
    """
    adapters = (*info.adapters, *spare)
    if not adapters:
        return 0
    rank = lora.rank(adapters)
    files = [(adapter.weights_bytes or 0) * rank // (adapter.rank or rank) for adapter in adapters]
    element = DTYPE_BYTES.get(info.dtype or "", DEFAULT_DTYPE_BYTES)
    known = info.layers and info.hidden_size
    every_layer = (info.layers or 0) * LORA_WIDTH * (info.hidden_size or 0) * rank * element
    each = max(every_layer, *files) if known else max(2 * bytes_ for bytes_ in files)
    return math.ceil(each) * lora.slots(adapters)


def kv_bytes_for(layout: KvLayout | None, context: int) -> int:
    """KV cache per GPU for one sequence of `context` tokens."""
    return math.ceil(layout.request_bytes(context) / USABLE_KV) if layout else 0


def largest_context(info: ModelInfo, layout: KvLayout | None, *, kv_bytes: int, default: int) -> int:
    """Tokens of one sequence that a KV cache of `kv_bytes` per GPU holds, up to the model's limit, or up to `default`
    where that is unknown.
    """
    limit = info.max_position or default
    if layout is None:
        return limit
    tokens = longest(layout, kv_bytes * USABLE_KV + 1e-6, limit)
    return min(limit, tokens - tokens % CONTEXT_STEP if CONTEXT_STEP < tokens < limit else tokens)


def estimate(
    info: ModelInfo,
    layout: KvLayout | None,
    *,
    gpus: int,
    kv_bytes: int,
    overhead_bytes: int,
    context: int,
    default_context: int,
) -> MemoryEstimate:
    """What one replica needs on each of its GPUs with a KV cache of `kv_bytes`, for requests of `context` tokens."""
    per_token = layout.bytes_per_token if layout else 0
    request_bytes = layout.request_bytes(context) if layout else 0
    return MemoryEstimate(
        weights_bytes=weights_per_gpu(info, gpus=gpus),
        kv_bytes_per_token=per_token,
        kv_bytes_per_request=layout.fixed_bytes(context) if layout else 0,
        kv_tokens=kv_bytes * context // request_bytes if request_bytes else 0,
        kv_bytes=kv_bytes,
        overhead_bytes=overhead_bytes,
        largest_context=largest_context(info, layout, kv_bytes=kv_bytes, default=default_context),
    )
