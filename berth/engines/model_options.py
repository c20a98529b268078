"""Settings of a model that every engine spells differently: speculation, the data type of the KV cache, text only, the
prefix cache, and KV cache in RAM. Checked against the options of vLLM 0.33, SGLang 0.5.23 and TensorRT-LLM 1.2.1.

The user's own arguments win: a setting that they name, in any spelling, is left out as a whole.
"""

import json
from collections.abc import Sequence
from typing import Any

from berth.engines.base import Drafter, KvDtype, LaunchOrder, ModelOptions, Speculation
from berth.engines.cli_arguments import names
from berth.plan import EngineName
from berth.units import GIB, size

NGRAM_TOKENS = 4
NGRAM_WINDOW = (2, 4)  # the tokens that must occur in the prompt: at least, at most
SGLANG_NGRAM_TOKENS = 12  # its default, of a tree of several continuations
LEAST_FP8_KV = (8, 9)  # no attention kernel of older GPUs reads e4m3; vLLM refuses it there
LEAST_BFLOAT16 = (8, 0)
# SGLang 0.5.23 ends with any other (its server_args.py).
SGLANG_TEXT_ONLY = frozenset(
    {
        "Cosmos3EdgeForConditionalGeneration",
        "Cosmos3ForConditionalGeneration",
        "DeepseekV4ForCausalLM",
        "MuseGlimmerForConditionalGeneration",
    }
)

# The beginnings of the options by which a user's arguments replace a setting.
ARGUMENTS: dict[EngineName, dict[str, tuple[str, ...]]] = {
    EngineName.VLLM: {
        "speculation": ("--spec", "-sc"),
        "kv_dtype": ("--kv-cache-dtype",),
        "text_only": ("--language-model-only", "--no-language-model-only"),
        "prefix_cache": ("--enable-prefix-caching", "--no-enable-prefix-caching", "--disable-prefix-caching"),
        "kv_offload": ("--kv-offloading", "--kv-transfer-config"),
    },
    EngineName.SGLANG: {
        "speculation": ("--speculative-",),
        "kv_dtype": ("--kv-cache-dtype",),
        "text_only": ("--language-model-only", "--language-only"),
        "prefix_cache": ("--disable-radix-cache", "--radix-cache"),
        "kv_offload": ("--enable-hierarchical-cache", "--enable-hicache", "--hicache-", "--enable-lmcache"),
    },
    # Its settings are in the YAML file, which a user can only replace as a whole.
    EngineName.TRTLLM: {"kv_dtype": ("--extra-llm-api-options", "--config")},
}
_VLLM_METHODS = {Drafter.EAGLE: "eagle", Drafter.EAGLE3: "eagle3", Drafter.DFLASH: "dflash"}  # the rest it finds out
_SGLANG_ALGORITHMS = {
    Drafter.NGRAM: "NGRAM",
    Drafter.MTP: "NEXTN",
    Drafter.EAGLE: "EAGLE",
    Drafter.EAGLE3: "EAGLE3",
    Drafter.DFLASH: "DFLASH",
    Drafter.ASSISTANT: "NEXTN",
    Drafter.MODEL: "STANDALONE",
}


def in_arguments(engine: EngineName, setting: str, arguments: Sequence[str]) -> bool:
    """Whether the user's own arguments decide about this setting."""
    beginnings = ARGUMENTS.get(engine, {}).get(setting, ())
    return bool(beginnings) and names(arguments, *beginnings)


def without_arguments(engine: EngineName, options: ModelOptions, arguments: Sequence[str]) -> ModelOptions:
    """The settings that the user's own arguments leave to Berth."""

    def given(setting: str) -> bool:
        return in_arguments(engine, setting, arguments)

    return ModelOptions(
        speculation=None if given("speculation") else options.speculation,
        kv_dtype=KvDtype.AUTO if given("kv_dtype") else options.kv_dtype,
        checkpoint_kv_dtype=options.checkpoint_kv_dtype,
        text_only=options.text_only and not given("text_only"),
        prefix_cache=None if given("prefix_cache") else options.prefix_cache,
        kv_offload_bytes=0 if given("kv_offload") else options.kv_offload_bytes,
    )


def vllm_arguments(order: LaunchOrder) -> list[str]:
    options = without_arguments(EngineName.VLLM, order.options, order.extra_args)
    arguments: list[str] = []
    if options.speculation:
        arguments += ["--speculative-config", json.dumps(_vllm_speculation(options.speculation))]
    if options.kv_dtype is KvDtype.FP8:
        arguments += ["--kv-cache-dtype", "fp8"]
    elif options.kv_dtype is KvDtype.SIXTEEN_BITS and options.checkpoint_kv_dtype:
        half = order.dtype == "float16" or any(gpu.capability < LEAST_BFLOAT16 for gpu in order.gpus)
        arguments += ["--kv-cache-dtype", "float16" if half else "bfloat16"]
    arguments += ["--language-model-only"] if options.text_only else []
    if options.prefix_cache is not None:
        arguments += ["--enable-prefix-caching" if options.prefix_cache else "--no-enable-prefix-caching"]
    if options.kv_offload_bytes:  # of all GPUs together
        arguments += [
            "--kv-offloading-size",
            f"{options.kv_offload_bytes / GIB:g}",
            "--kv-offloading-backend",
            "native",
        ]
    return arguments


def _vllm_speculation(speculation: Speculation) -> dict[str, Any]:
    fields: dict[str, Any] = {"num_speculative_tokens": speculation.tokens}
    if speculation.drafter is Drafter.NGRAM:
        fewest, most = NGRAM_WINDOW
        return {"method": "ngram", **fields, "prompt_lookup_min": fewest, "prompt_lookup_max": most}
    if speculation.drafter is Drafter.MTP:
        return {"method": "mtp", **fields}
    method = _VLLM_METHODS.get(speculation.drafter)
    return {**({"method": method} if method else {}), "model": speculation.source, **fields}


def sglang_arguments(order: LaunchOrder) -> list[str]:
    options = without_arguments(EngineName.SGLANG, order.options, order.extra_args)
    arguments: list[str] = []
    if (speculation := options.speculation) is not None:
        arguments += ["--speculative-algorithm", _SGLANG_ALGORITHMS[speculation.drafter]]
        arguments += ["--speculative-draft-model-path", speculation.source] if speculation.source else []
        if speculation.drafter not in (Drafter.NGRAM, Drafter.DFLASH):  # it reads their lengths itself
            steps = speculation.tokens  # a chain of tokens (`topk` 1) has one more
            arguments += ["--speculative-num-steps", str(steps), "--speculative-eagle-topk", "1"]
            arguments += ["--speculative-num-draft-tokens", str(steps + 1)]
    if options.kv_dtype is KvDtype.FP8:
        arguments += ["--kv-cache-dtype", "fp8_e4m3"]
    elif options.kv_dtype is KvDtype.SIXTEEN_BITS and options.checkpoint_kv_dtype:
        arguments += ["--kv-cache-dtype", "bfloat16"]
    arguments += ["--language-model-only"] if options.text_only else []
    arguments += ["--disable-radix-cache"] if options.prefix_cache is False else []
    if options.kv_offload_bytes:  # of each GPU, in units of 10^9 bytes: never more than was asked for
        each = max(options.kv_offload_bytes // max(len(order.gpus), 1) // 10**9, 1)
        arguments += ["--enable-hierarchical-cache", "--hicache-size", str(each)]
        arguments += ["--hicache-write-policy", "write_through"]
    return arguments


def trtllm_kv_cache(order: LaunchOrder) -> dict[str, Any]:
    """The keys of `kv_cache_config`."""
    options = order.options
    keys: dict[str, Any] = {"dtype": "fp8"} if options.kv_dtype is KvDtype.FP8 else {}
    if options.prefix_cache is not None:
        keys["enable_block_reuse"] = options.prefix_cache
    if options.kv_offload_bytes:  # of each GPU
        keys["host_cache_size"] = options.kv_offload_bytes // max(len(order.gpus), 1)
    return keys


def notes(engine: EngineName, order: LaunchOrder) -> tuple[str, ...]:
    """One line per setting that is not as the engine has it, with what decided, for `berth plan`."""
    options = order.options
    found: dict[str, tuple[str, str]] = {}
    if options.speculation:
        one = options.speculation
        by = f" by {one.source}" if one.source else ""
        tokens = f"{one.tokens} token{'s' if one.tokens > 1 else ''} at once"
        found["speculation"] = ("speculation", f"{one.drafter}{by}, {tokens} ({one.origin})")
    if options.kv_dtype is not KvDtype.AUTO:
        found["kv_dtype"] = ("kv dtype", f"{options.kv_dtype} (kv_dtype)")
    elif options.checkpoint_kv_dtype:
        found["kv_dtype"] = ("kv dtype", f"{options.checkpoint_kv_dtype} (the checkpoint asks for it)")
    if options.text_only:
        found["text_only"] = ("input", "text alone (text_only)")
    if options.prefix_cache is not None:
        found["prefix_cache"] = ("prefixes", f"{'kept' if options.prefix_cache else 'not kept'} (prefix_cache)")
    if options.kv_offload_bytes:
        found["kv_offload"] = ("offload", f"{size(options.kv_offload_bytes)} of RAM for KV cache (kv_offload)")
    return tuple(
        f"{label}: {'as your args say (args)' if in_arguments(engine, setting, order.extra_args) else text}"
        for setting, (label, text) in found.items()
    )


def draft_tokens(engine: EngineName, options: ModelOptions) -> int:
    """Tokens that one step checks besides its own."""
    speculation = options.speculation
    if speculation is None:
        return 0
    ngram = speculation.drafter is Drafter.NGRAM and engine is EngineName.SGLANG
    return SGLANG_NGRAM_TOKENS if ngram else speculation.tokens
