"""One spelling for three engines: what each gets on its command line or in its file."""

import json
from typing import Any

import pytest
import yaml

from berth.engines.base import Drafter, KvDtype, ModelOptions, Speculation
from berth.engines.model_options import ARGUMENTS, draft_tokens, in_arguments
from berth.engines.registry import ENGINES
from berth.plan import EngineName, Launch
from tests.fakes.orders import GIB, launch_order

VLLM, SGLANG, TRTLLM = EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM
NGRAM = Speculation(drafter=Drafter.NGRAM, tokens=4, origin="speculation: ngram")
MTP = Speculation(drafter=Drafter.MTP, tokens=1, origin="speculation: mtp")
EAGLE3 = Speculation(drafter=Drafter.EAGLE3, tokens=3, source="owner/m-eagle3")
EVERYTHING = ModelOptions(
    speculation=NGRAM, kv_dtype=KvDtype.FP8, text_only=True, prefix_cache=False, kv_offload_bytes=32 * GIB
)


def launch(engine: EngineName, options: ModelOptions, **changes: Any) -> Launch:
    return ENGINES[engine].launch(launch_order(options=options, **changes))


def added(engine: EngineName, options: ModelOptions, **changes: Any) -> list[str]:
    """The words that the settings add to the command line, in their order."""
    without = launch(engine, ModelOptions(), **changes).argv
    words = list(launch(engine, options, **changes).argv)
    for word in without:
        words.remove(word)
    return words


def cache_config(options: ModelOptions, **changes: Any) -> dict[str, Any]:
    (text,) = launch(TRTLLM, options, **changes).files.values()
    found: dict[str, Any] = yaml.safe_load(text)["kv_cache_config"]
    return found


@pytest.mark.parametrize("engine", [VLLM, SGLANG, TRTLLM])
def test_the_defaults_leave_the_engine_as_it_is(engine: EngineName) -> None:
    assert added(engine, ModelOptions(checkpoint_kv_dtype="fp8")) == []
    assert cache_config(ModelOptions(checkpoint_kv_dtype="fp8")) == cache_config(ModelOptions())


@pytest.mark.parametrize(
    ("options", "vllm", "sglang"),
    [
        (ModelOptions(kv_dtype=KvDtype.FP8), "--kv-cache-dtype fp8", "--kv-cache-dtype fp8_e4m3"),
        (ModelOptions(kv_dtype=KvDtype.SIXTEEN_BITS), "", ""),
        (
            ModelOptions(kv_dtype=KvDtype.SIXTEEN_BITS, checkpoint_kv_dtype="fp8"),
            "--kv-cache-dtype bfloat16",
            "--kv-cache-dtype bfloat16",
        ),
        (ModelOptions(text_only=True), "--language-model-only", "--language-model-only"),
        (ModelOptions(prefix_cache=True), "--enable-prefix-caching", ""),
        (ModelOptions(prefix_cache=False), "--no-enable-prefix-caching", "--disable-radix-cache"),
        (
            ModelOptions(kv_offload_bytes=32 * GIB),
            "--kv-offloading-size 32 --kv-offloading-backend native",
            "--enable-hierarchical-cache --hicache-size 34 --hicache-write-policy write_through",
        ),
        (
            ModelOptions(speculation=MTP),
            '--speculative-config {"method": "mtp", "num_speculative_tokens": 1}',
            (
                "--speculative-algorithm NEXTN --speculative-num-steps 1 --speculative-eagle-topk 1"
                " --speculative-num-draft-tokens 2"
            ),
        ),
        (
            ModelOptions(speculation=EAGLE3),
            '--speculative-config {"method": "eagle3", "model": "owner/m-eagle3", "num_speculative_tokens": 3}',
            (
                "--speculative-algorithm EAGLE3 --speculative-draft-model-path owner/m-eagle3 --speculative-num-steps 3"
                " --speculative-eagle-topk 1 --speculative-num-draft-tokens 4"
            ),
        ),
    ],
)
def test_each_setting_has_its_words(options: ModelOptions, vllm: str, sglang: str) -> None:
    assert " ".join(added(VLLM, options)) == vllm
    assert " ".join(added(SGLANG, options)) == sglang


def test_ngram_needs_no_draft_model() -> None:
    (flag, text) = added(VLLM, ModelOptions(speculation=NGRAM))
    assert flag == "--speculative-config"
    assert json.loads(text)["method"] == "ngram"
    assert added(SGLANG, ModelOptions(speculation=NGRAM)) == ["--speculative-algorithm", "NGRAM"]


@pytest.mark.parametrize("drafter", [Drafter.ASSISTANT, Drafter.MODEL])
def test_vllm_finds_out_what_other_draft_models_are(drafter: Drafter) -> None:
    speculation = Speculation(drafter=drafter, tokens=3, source="owner/draft")
    assert json.loads(added(VLLM, ModelOptions(speculation=speculation))[1]) == {
        "model": "owner/draft",
        "num_speculative_tokens": 3,
    }


def test_a_cache_of_16_bits_is_float16_where_the_gpu_or_the_weights_are() -> None:
    options = ModelOptions(kv_dtype=KvDtype.SIXTEEN_BITS, checkpoint_kv_dtype="fp8")
    assert added(VLLM, options, dtype="float16")[-1] == "float16"


def test_the_engines_divide_the_memory_for_offload_differently() -> None:
    options = ModelOptions(kv_offload_bytes=32 * GIB)
    assert "--kv-offloading-size 32" in " ".join(added(VLLM, options, gpus=4))  # of all GPUs
    assert "--hicache-size 8" in " ".join(added(SGLANG, options, gpus=4))  # of each, in 10^9 bytes
    assert cache_config(options, gpus=4)["host_cache_size"] == 8 * GIB


def test_tensorrt_llm_has_them_in_its_file() -> None:
    found = cache_config(EVERYTHING)
    assert (found["dtype"], found["enable_block_reuse"], found["host_cache_size"]) == ("fp8", False, 32 * GIB)
    assert added(TRTLLM, EVERYTHING) == []


@pytest.mark.parametrize(
    ("engine", "words", "gone"),
    [
        (VLLM, ("-sc", "{}"), "--speculative-config"),
        (VLLM, ("--spec_method=suffix",), "--speculative-config"),
        (VLLM, ("--kv_cache_dtype", "auto"), "fp8"),
        (VLLM, ("--no-language-model-only",), "--language-model-only"),
        (VLLM, ("--enable-prefix-caching",), "--no-enable-prefix-caching"),
        (VLLM, ("--kv-transfer-config", "{}"), "--kv-offloading-size"),
        (SGLANG, ("--speculative-num-steps", "5"), "--speculative-algorithm"),
        (SGLANG, ("--kv-cache-dtype=auto",), "fp8_e4m3"),
        (SGLANG, ("--language-only",), "--language-model-only"),
        (SGLANG, ("--radix-cache-backend", "x"), "--disable-radix-cache"),
        (SGLANG, ("--hicache-ratio", "2"), "--hicache-size"),
    ],
)
def test_the_users_arguments_replace_a_setting_as_a_whole(
    engine: EngineName, words: tuple[str, ...], gone: str
) -> None:
    found = launch(engine, EVERYTHING, extra_args=words)
    assert gone in launch(engine, EVERYTHING).argv
    assert gone not in found.argv
    assert sum(note.endswith("as your args say (args)") for note in found.notes) == 1


def test_notes_say_what_decided() -> None:
    assert launch(VLLM, EVERYTHING).notes[-5:] == (
        "speculation: ngram, 4 tokens at once (speculation: ngram)",
        "kv dtype: fp8 (kv_dtype)",
        "input: text alone (text_only)",
        "prefixes: not kept (prefix_cache)",
        "offload: 32.0 GiB of RAM for KV cache (kv_offload)",
    )
    eagle = ModelOptions(speculation=EAGLE3, checkpoint_kv_dtype="fp8", prefix_cache=True)
    notes = launch(SGLANG, eagle).notes
    assert any("eagle3 by owner/m-eagle3, 3 tokens at once" in note for note in notes)
    assert "kv dtype: fp8 (the checkpoint asks for it)" in notes
    assert "prefixes: kept (prefix_cache)" in notes


def test_an_engine_without_own_words_has_no_arguments_for_a_setting() -> None:
    assert not in_arguments(TRTLLM, "speculation", ("--speculative-config",))
    assert not in_arguments(EngineName.SIM, "kv_dtype", ("--kv-cache-dtype", "fp8"))
    assert set(ARGUMENTS[VLLM]) == set(ARGUMENTS[SGLANG])


def test_sglang_checks_more_tokens_of_ngram() -> None:
    assert [draft_tokens(engine, ModelOptions(speculation=NGRAM)) for engine in (VLLM, SGLANG)] == [4, 12]
    assert draft_tokens(SGLANG, ModelOptions(speculation=MTP)) == 1
    assert draft_tokens(VLLM, ModelOptions()) == 0
