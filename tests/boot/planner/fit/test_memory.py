"""The formulas, against figures worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from berth.boot.checkpoints.cache_layers import CacheLayer, LayerKind
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.planner.fit.kv_layout import KvLayout
from berth.boot.planner.fit.memory import (
    CacheOptions,
    card_overhead,
    draft_of,
    estimate,
    guessed,
    kv_bytes_for,
    kv_layout,
    largest_context,
    weights_from_name,
    weights_per_gpu,
)
from berth.plan import EngineName
from tests.fakes.machine import BGE_M3, GIB, LLAMA_70B, QWEN_8B, full_layers, gpu

LATENT = CacheLayer(kind=LayerKind.FULL, shared_dims=576)
DEEPSEEK = ModelInfo(source="x/deepseek", cache_layers=(LATENT,) * 61)


def layout(info: ModelInfo, gpus: int = 1, engine: EngineName = EngineName.VLLM, **options: Any) -> KvLayout | None:
    return kv_layout(info, engine=engine, gpus=gpus, options=CacheOptions(**options))


@pytest.mark.parametrize(
    ("info", "gpus", "expected"),
    [
        (QWEN_8B, 0, 2 * 36 * 8 * 128 * 2),
        (QWEN_8B, 1, 147456),
        (QWEN_8B, 2, 73728),
        (LLAMA_70B, 8, 2 * 80 * 1 * 128 * 2),
        (LLAMA_70B, 16, 2 * 80 * 1 * 128 * 2),
        (replace(QWEN_8B, dtype="float32"), 1, 294912),
        (replace(QWEN_8B, dtype=None), 1, 147456),
        (replace(QWEN_8B, kv_dtype="fp8"), 1, 147456 // 2),
        (DEEPSEEK, 1, 61 * 576 * 2),
        (DEEPSEEK, 8, 61 * 576 * 2),
        (ModelInfo(source="x", weights_bytes=16 * 10**9), 2, 128 * 1024),
        (ModelInfo(source="x", weights_bytes=140 * 10**9), 1, 512 * 1024),
    ],
)
@pytest.mark.parametrize("engine", [EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM])
def test_kv_cache_per_token_and_gpu(info: ModelInfo, gpus: int, expected: int, engine: EngineName) -> None:
    found = layout(info, gpus, engine)
    assert found is not None
    assert found.bytes_per_token == expected


def test_an_encoder_has_no_kv_cache() -> None:
    assert layout(BGE_M3) is None


@pytest.mark.parametrize(
    ("kv_dtype", "share"), [("auto", 1), ("fp8_e5m2", 1 / 2), ("bfloat16", 1), ("int8_per_token_head", 132 / 256)]
)
def test_the_users_data_type_of_the_cache_wins(kv_dtype: str, share: float) -> None:
    found = layout(replace(QWEN_8B, dtype="float16"), kv_dtype=kv_dtype)
    assert found is not None
    assert found.bytes_per_token == 147456 * share


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), CacheOptions()),
        (("--kv-cache-dtype", "fp8"), CacheOptions(kv_dtype="fp8")),
        (("--max-num-batched-tokens=4096",), CacheOptions(batch_tokens=4096)),
        (("--speculative-config", '{"method": "mtp", "num_speculative_tokens": 3}'), CacheOptions(draft_tokens=3)),
        (("--speculative-config", '{"num_speculative_tokens": "3"}'), CacheOptions()),
        (("--speculative-config", "{broken"), CacheOptions()),
        (("--speculative-config", "[]"), CacheOptions()),
        (("--speculative-num-draft-tokens", "4"), CacheOptions(draft_tokens=4)),
    ],
)
def test_reads_the_arguments_that_change_the_cache(arguments: tuple[str, ...], options: CacheOptions) -> None:
    assert CacheOptions.of(arguments) == options


def test_batches_are_larger_on_large_gpus() -> None:
    small, large = gpu(total_gib=24), gpu(total_gib=80)
    assert [CacheOptions.of(()).batch_on(card) for card in (None, small, large)] == [2048, 2048, 8192]
    assert CacheOptions.of(("--max-num-batched-tokens", "512")).batch_on(large) == 512


def test_speculation_adds_its_own_layers() -> None:
    drafting = replace(QWEN_8B, draft_layers=full_layers(2, kv_heads=8, head_dim=128))
    found = [layout(info, draft_tokens=3) for info in (QWEN_8B, drafting)]
    assert [one.bytes_per_token // 4096 for one in found if one] == [37, 38]


def test_kernels_for_mxfp4_pad_the_weights() -> None:
    packed = ModelInfo(source="openai/gpt-oss-120b", weights_bytes=int(60.77 * GIB), quantization="mxfp4")
    assert weights_per_gpu(packed, gpus=1) / GIB == pytest.approx(65.97, rel=0.001)


@pytest.mark.parametrize(("gpus", "expected"), [(0, 16_381_470_720), (1, 16_381_470_720), (4, 4_095_367_680)])
def test_divides_weights_among_gpus(gpus: int, expected: int) -> None:
    assert weights_per_gpu(QWEN_8B, gpus=gpus) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Qwen/Qwen3-8B", 16e9),
        ("Qwen/Qwen3-0.6B", 1.2e9),
        ("Qwen/Qwen3-30B-A3B-Instruct", 60e9),
        ("mistralai/Mixtral-8x7B-v0.1", 112e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.27e9),
        ("Qwen/Qwen3-8B-FP8", 8.4e9),
        ("Qwen/Qwen3-8B-AWQ", 4.8e9),
        ("/models/7b-chat/", 14e9),
        ("BAAI/bge-m3", None),
        ("microsoft/phi-4", None),
    ],
)
def test_estimates_weights_from_the_name(source: str, expected: float | None) -> None:
    assert weights_from_name(source) == (None if expected is None else pytest.approx(expected))


def test_warns_only_about_estimated_weights() -> None:
    assert guessed(QWEN_8B) is QWEN_8B
    assert guessed(ModelInfo(source="Qwen/Qwen3-8B")).weights_bytes == 16 * 10**9
    assert "estimated from its name" in guessed(ModelInfo(source="Qwen/Qwen3-8B")).warnings[0]
    assert guessed(ModelInfo(source="a/b")).weights_bytes is None
    assert "to itself" in guessed(ModelInfo(source="a/b")).warnings[0]


def test_context_and_cache_size_are_inverse() -> None:
    for context in (1024, 8192, 40960):
        kv_bytes = kv_bytes_for(layout(QWEN_8B), context)
        assert largest_context(QWEN_8B, layout(QWEN_8B), kv_bytes=kv_bytes, default=1) == context
        assert largest_context(QWEN_8B, layout(QWEN_8B), kv_bytes=kv_bytes - 1024, default=1) < context


@pytest.mark.parametrize(
    ("info", "kv_bytes", "expected"),
    [
        (QWEN_8B, 100 * GIB, 40960),
        (QWEN_8B, 0, 0),
        (QWEN_8B, 40 * 147456, 32),
        (BGE_M3, 0, 8192),
        (replace(QWEN_8B, max_position=None), 100 * GIB, 5000),
    ],
)
def test_largest_context_is_limited_by_cache_and_model(info: ModelInfo, kv_bytes: int, expected: int) -> None:
    assert largest_context(info, layout(info), kv_bytes=kv_bytes, default=5000) == expected


def test_estimate_is_the_sum_of_its_parts() -> None:
    memory = estimate(
        LLAMA_70B,
        layout(LLAMA_70B, gpus=4),
        gpus=4,
        kv_bytes=20 * GIB,
        overhead_bytes=4 * GIB,
        context=131072,
        default_context=8192,
    )

    assert memory.total_bytes == 35_276_853_248 + 24 * GIB
    assert memory.kv_bytes_per_token == 2 * 80 * 2 * 128 * 2
    assert (memory.kv_bytes_per_request, memory.kv_tokens) == (0, 20 * GIB // memory.kv_bytes_per_token)
    assert memory.largest_context == 131072


def test_estimate_tells_the_growing_part_from_the_fixed_one() -> None:
    window = CacheLayer(kind=LayerKind.SLIDING, kv_heads=8, dims=256, window=1024)
    info = replace(QWEN_8B, cache_layers=(*QWEN_8B.cache_layers[:2], window, window))
    memory = estimate(info, layout(info), gpus=1, kv_bytes=GIB, overhead_bytes=0, context=32_768, default_context=8192)

    assert memory.kv_bytes_per_token == 2 * 4096
    assert memory.kv_bytes_per_request == 2 * 4096 * 16 * ((1023 + 4096 + 15) // 16 + 1)
    assert memory.kv_tokens == GIB * 32_768 // (32_768 * memory.kv_bytes_per_token + memory.kv_bytes_per_request)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (0, True)),
        (("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4}'), (4, False)),
        (("--speculative-config", '{"method": "suffix", "num_speculative_tokens": 8}'), (8, False)),
        (("--speculative-config", '{"model": "owner/draft", "num_speculative_tokens": 3}'), (3, True)),
        (("--speculative-algorithm", "ngram", "--speculative-num-draft-tokens", "12"), (12, False)),
        (("--speculative-algorithm", "NEXTN", "--speculative-num-steps", "3"), (3, True)),
    ],
)
def test_only_a_drafter_with_layers_has_a_cache(arguments: tuple[str, ...], expected: tuple[int, bool]) -> None:
    assert draft_of(arguments) == expected


@pytest.mark.parametrize(
    ("quantization", "card_gib", "batch_tokens", "gib"),
    [(None, 80, 8192, 0), (None, 24, 2048, 0), (None, 16, 2048, -1), ("mxfp4", 80, 2048, 0), ("mxfp4", 80, 8192, 4.8)],
)
def test_overhead_of_a_card(quantization: str | None, card_gib: int, batch_tokens: int, gib: float) -> None:
    info = replace(QWEN_8B, quantization=quantization)
    found = card_overhead(info, card_bytes=card_gib * GIB, batch_tokens=batch_tokens)

    assert found / GIB == pytest.approx(gib, abs=0.01)
