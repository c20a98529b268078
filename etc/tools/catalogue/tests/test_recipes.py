from pathlib import Path
from typing import Any

import pytest

from berth.boot.catalogue.schema import Draft, ParserNames, Precision, Variant
from etc.tools.catalogue.recipes import draft, models, stated_bytes, stem

RECIPE = """
model:
  model_id: "acme/Big-8B-Instruct"
  context_length: 4096
  base_args: ["--trust-remote-code"]
features:
  tool_calling: {args: ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]}
  reasoning: {args: ["--reasoning-parser=qwen3"]}
  text_only: {args: ["--language-model-only"]}
  spec_decoding:
    args: ["--speculative-config.method", "mtp", "--speculative-config.num_speculative_tokens", "2"]
variants:
  default:
    precision: bf16
    vram_minimum_gb: 20
  fp8:
    model_id: other/Big-8B-Instruct-FP8-dynamic
    precision: fp8
    # 8,123,456,789 B = 8.1 GB
    vram_minimum_gb: 10
  small: {model_id: acme/Big-1B-Instruct, precision: bf16, vram_minimum_gb: 3}
  amd_mxfp4: {model_id: amd/Big-8B-Instruct-MXFP4, precision: mxfp4, description: Quark for MI355X}
  online: {precision: fp8, vram_minimum_gb: 11}
strategies: [tp]
"""


def folder(tmp_path: Path, text: str = RECIPE) -> Path:
    path = tmp_path / "models" / "acme" / "big.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return tmp_path


def test_reads_the_facts_of_a_recipe(tmp_path: Path) -> None:
    (model,) = models(folder(tmp_path))
    assert (model.id, model.context, model.text_only) == ("acme/Big-8B-Instruct", 4096, True)
    assert model.parsers == {"vllm": ParserNames(tool="hermes", reasoning="qwen3")}
    assert model.draft == Draft(method="mtp", tokens=2)
    assert model.source == "recipes:models/acme/big.yaml"


def test_a_variant_is_the_same_model_in_another_precision(tmp_path: Path) -> None:
    """Not another size, another maker's accelerator, or what an engine quantises while it loads."""
    (model,) = models(folder(tmp_path))
    assert model.variants == (
        Variant(id="acme/Big-8B-Instruct", precision=Precision.BF16, memory_bytes=20 * 10**9),
        Variant(
            id="other/Big-8B-Instruct-FP8-dynamic",
            precision=Precision.FP8,
            weights_bytes=8_123_456_789,
            memory_bytes=10 * 10**9,
        ),
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B-AWQ", True),
        ("meta-llama/Llama-3.1-8B-Instruct", "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", True),
        ("google/gemma-4-26B-A4B-it", "nvidia/Gemma-4-26B-A4B-NVFP4", True),
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-8B", False),
        ("microsoft/Phi-4-mini-instruct", "microsoft/Phi-4-mini-reasoning", False),
        ("deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-R1-0528", False),
    ],
)
def test_names_of_one_model_have_one_stem(one: str, other: str, same: bool) -> None:
    assert (stem(one) == stem(other)) is same


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        ({}, None),
        (
            {"args": ["--speculative-config", '{"model": "a/d", "num_speculative_tokens": 4}']},
            Draft(id="a/d", tokens=4),
        ),
        ({"args": ["--speculative-config", '{"method": "ernie_mtp"}']}, Draft(method="mtp")),
        (
            {"default_mode": "b", "modes": {"a": {}, "b": {"args": ["--speculative-config", '{"method": "eagle3"}']}}},
            Draft(method="eagle3"),
        ),
        ({"args": ["--other"]}, None),
    ],
)
def test_reads_what_speculates(feature: dict[str, Any], expected: Draft | None) -> None:
    assert draft(feature) == expected


def test_a_size_belongs_to_the_variant_around_it() -> None:
    text = "# 9,000,000,000 B\nvariants:\n  a:\n    # 1,000,000,001 B\n  b: {}\n  c:\n    # index 2,000,000,002 B\nx:\n"
    assert stated_bytes(text) == {"a": 1_000_000_001, "c": 2_000_000_002}


@pytest.mark.parametrize("text", ["model: [", "model: {}", "- a", "model: {model_id: a/b}\nvariants: {default: {}}"])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"big\.yaml is no recipe"):
        models(folder(tmp_path, text))
