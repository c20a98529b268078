"""The formulas, against figures worked out by hand."""

from dataclasses import replace

import pytest

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.planner.memory import (
    estimate,
    guessed,
    kv_bytes_for,
    kv_bytes_per_token,
    largest_context,
    weights_from_name,
    weights_per_gpu,
)
from tests.fakes.machine import BGE_M3, GIB, LLAMA_70B, QWEN_8B

DEEPSEEK = ModelInfo(source="x/deepseek", layers=61, heads=128, kv_heads=128, head_dim=192, latent_dim=576)


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
        (DEEPSEEK, 1, 61 * 576 * 2),
        (DEEPSEEK, 8, 61 * 576 * 2),
        (BGE_M3, 1, 0),
        (ModelInfo(source="x", weights_bytes=16 * 10**9), 2, 128 * 1024),
        (ModelInfo(source="x", weights_bytes=140 * 10**9), 1, 512 * 1024),
    ],
)
def test_kv_cache_per_token_and_gpu(info: ModelInfo, gpus: int, expected: int) -> None:
    assert kv_bytes_per_token(info, gpus=gpus) == expected


def test_fp8_cache_takes_half() -> None:
    assert kv_bytes_per_token(QWEN_8B, gpus=1, kv_dtype="fp8") == 147456 // 2


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
        kv_bytes = kv_bytes_for(QWEN_8B, gpus=1, context=context)
        assert largest_context(QWEN_8B, gpus=1, kv_bytes=kv_bytes, default=1) == context
        assert largest_context(QWEN_8B, gpus=1, kv_bytes=kv_bytes - 1024, default=1) < context


@pytest.mark.parametrize(
    ("info", "kv_bytes", "expected"),
    [
        (QWEN_8B, 100 * GIB, 40960),
        (QWEN_8B, 0, 0),
        (QWEN_8B, 20 * 147456, 19),
        (BGE_M3, 0, 8192),
        (replace(QWEN_8B, max_position=None), 100 * GIB, 5000),
    ],
)
def test_largest_context_is_limited_by_cache_and_model(info: ModelInfo, kv_bytes: int, expected: int) -> None:
    assert largest_context(info, gpus=1, kv_bytes=kv_bytes, default=5000) == expected


def test_estimate_is_the_sum_of_its_parts() -> None:
    memory = estimate(LLAMA_70B, gpus=4, kv_bytes=20 * GIB, overhead_bytes=4 * GIB, default_context=8192)

    assert memory.total_bytes == 35_276_853_248 + 24 * GIB
    assert memory.kv_bytes_per_token == 2 * 80 * 2 * 128 * 2
    assert memory.largest_context == 131072
