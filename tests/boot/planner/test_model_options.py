"""Settings that engines spell differently: what they mean for a model, its memory, and what speaks against them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from berth.boot.catalogue.entry import Entry
from berth.boot.catalogue.schema import Draft, Model
from berth.boot.checkpoints.cache_layers import CacheLayer, LayerKind
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import EngineSpec, ModelSpec, parse_models
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.model_options import known_speculation, speculation_of
from berth.engines.base import Drafter, KvDtype, Speculation
from berth.errors import ConfigError, Problem
from berth.plan import EngineName, Gpu, MemoryEstimate, Replica, Standby
from tests.fakes.api_keys import api_keys
from tests.fakes.machine import ALL_ENGINES, CPU_ENGINES, GIB, KNOWN, QWEN_8B, full_layers, gpu, gpus, host_info

VLLM, SGLANG, TRTLLM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM))
CHAT = ModelSpec(name="chat", source=QWEN_8B.source, engines=(VLLM,))
WITH_MTP = replace(QWEN_8B, draft_layers=full_layers(1, kv_heads=8, head_dim=128))
DRAFT = ModelInfo(
    source="owner/qwen3-8b-eagle3",
    architectures=("LlamaForCausalLMEagle3",),
    cache_layers=full_layers(1, kv_heads=8, head_dim=128),
    weights_bytes=GIB,
    warnings=("a note",),
)
SEES = replace(QWEN_8B, multimodal=True, tower_elements=GIB // 2, architectures=("Qwen3VLForConditionalGeneration",))
HYBRID = replace(
    QWEN_8B,
    cache_layers=(*QWEN_8B.cache_layers, CacheLayer(kind=LayerKind.RECURRENT, conv_width=1024, conv_tokens=3)),
)
RTX_3090 = replace(gpu(total_gib=24), name="NVIDIA GeForce RTX 3090", compute_capability="8.6")


def machine(info: ModelInfo = QWEN_8B, *found: Gpu, **changes: Any) -> HostInfo:
    known: Mapping[str, ModelInfo] = {**KNOWN, info.source: info, DRAFT.source: DRAFT}
    return host_info(*(found or gpus(1)), describe=lambda spec: known[spec.source], **changes)


def replica(spec: ModelSpec, host: HostInfo | None = None) -> Replica:
    return make_plan(Settings(models=(spec,), api_keys=api_keys("k")), host or machine()).replicas[0]


def memory(spec: ModelSpec, host: HostInfo | None = None) -> MemoryEstimate:
    found = replica(spec, host).memory
    assert found is not None
    return found


def words(spec: ModelSpec, host: HostInfo | None = None) -> str:
    launch = replica(spec, host).launch
    assert launch is not None
    return " ".join(launch.argv)


def problems(spec: ModelSpec, host: HostInfo) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        make_plan(Settings(models=(spec,)), host)
    return caught.value.problems


def test_speculation_is_off_unless_asked_for() -> None:
    assert speculation_of("off", WITH_MTP) is None
    assert "--speculative-config" not in words(CHAT, machine(WITH_MTP))


@pytest.mark.parametrize(
    ("info", "drafter"),
    [(WITH_MTP, Drafter.MTP), (QWEN_8B, None), (replace(WITH_MTP, experts=128), None)],
)
def test_auto_takes_the_layers_of_a_dense_checkpoint(info: ModelInfo, drafter: Drafter | None) -> None:
    found = speculation_of("auto", info)
    assert (found and found.drafter) == drafter


def test_auto_prefers_what_is_known_of_the_model() -> None:
    known = Speculation(drafter=Drafter.EAGLE3, tokens=5, source="owner/draft")
    assert speculation_of("auto", WITH_MTP, known=known) == replace(known, origin="speculation: auto")
    told = replace(known, origin="catalogue")
    assert speculation_of("auto", replace(WITH_MTP, experts=8), known=told) == told
    assert speculation_of("off", WITH_MTP, known=known) is None


def in_catalogue(info: ModelInfo, draft: Draft | None) -> ModelInfo:
    model = Model(id=info.source, draft=draft, source="recipes:a.yaml")
    return replace(info, catalogue=Entry(model=model, parsers_origins={}))


@pytest.mark.parametrize(
    ("info", "draft", "expected"),
    [
        (QWEN_8B, None, None),
        (QWEN_8B, Draft(method="mtp", tokens=2), None),  # this checkpoint has no such layers
        (replace(WITH_MTP, experts=8), Draft(method="mtp", tokens=2), (Drafter.MTP, 2, "")),
        (WITH_MTP, Draft(method="mtp", id=WITH_MTP.source), (Drafter.MTP, 1, "")),
        (QWEN_8B, Draft(tokens=5, id=DRAFT.source), (Drafter.EAGLE3, 5, DRAFT.source)),
    ],
)
def test_catalogue_knows_drafters(
    info: ModelInfo, draft: Draft | None, expected: tuple[Drafter, int, str] | None
) -> None:
    found = known_speculation(in_catalogue(info, draft))
    assert (found and (found.drafter, found.tokens, found.source)) == expected


def test_auto_plans_with_the_drafter_of_the_catalogue() -> None:
    host = machine(in_catalogue(QWEN_8B, Draft(tokens=5, id=DRAFT.source)))
    spec = replace(CHAT, speculation="auto")
    assert f'"model": "{DRAFT.source}"' in words(spec, host)
    assert '"num_speculative_tokens": 5' in words(spec, host)
    assert memory(spec, host).weights_bytes == memory(CHAT, host).weights_bytes + GIB
    assert "catalogue" in " ".join(replica(spec, host).launch.notes)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("source", "drafter", "tokens"),
    [
        ("RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3", Drafter.EAGLE3, 3),
        ("mistralai/Mistral-Medium-3.5-128B-EAGLE", Drafter.EAGLE, 3),
        ("poolside/Laguna-S-2.1-DFlash", Drafter.DFLASH, 15),
        ("google/gemma-4-12B-it-assistant", Drafter.ASSISTANT, 3),
        ("Qwen/Qwen3-0.6B", Drafter.MODEL, 3),
    ],
)
def test_a_draft_model_is_of_the_kind_that_its_name_says(source: str, drafter: Drafter, tokens: int) -> None:
    found = speculation_of(source, QWEN_8B)
    assert found
    assert (found.drafter, found.tokens, found.source) == (drafter, tokens, source)


def test_the_memory_of_a_draft_model_counts() -> None:
    plain, host = memory(CHAT), machine()
    spec = replace(CHAT, speculation=DRAFT.source)
    with_draft = memory(spec, host)
    assert with_draft.weights_bytes == plain.weights_bytes + GIB
    assert with_draft.kv_bytes_per_token == plain.kv_bytes_per_token * 37 // 36
    assert '"method": "eagle3"' in words(spec, host)
    plan = make_plan(Settings(models=(spec,)), host)
    assert plan.models[0].extra_sources == (DRAFT.source,)
    assert f"chat: draft model {DRAFT.source}: a note" in plan.warnings


def test_the_layers_of_the_checkpoint_have_a_cache_and_ngram_has_none() -> None:
    host = machine(WITH_MTP)
    each = memory(CHAT, host).kv_bytes_per_token
    assert memory(replace(CHAT, speculation="mtp"), host).kv_bytes_per_token == each * 37 // 36
    assert memory(replace(CHAT, speculation="ngram"), host).kv_bytes_per_token == each


def test_a_draft_model_that_is_not_there_is_a_problem_of_its_setting() -> None:
    def describe(spec: ModelSpec) -> ModelInfo:
        if spec.source == CHAT.source:
            return QWEN_8B
        raise ConfigError([Problem(variable="BERTH_MODELS", value="x", reason="no such", allowed="a", example="b")])

    (problem,) = problems(replace(CHAT, speculation="owner/none"), host_info(*gpus(1), describe=describe))
    assert problem.variable == "BERTH_MODELS: chat.speculation"


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    fp8 = memory(replace(CHAT, kv_dtype=KvDtype.FP8))
    assert fp8.kv_bytes_per_token * 2 == memory(CHAT).kv_bytes_per_token
    asked = machine(replace(QWEN_8B, kv_dtype="fp8"))
    assert memory(CHAT, asked).kv_bytes_per_token == fp8.kv_bytes_per_token
    sixteen = replace(CHAT, kv_dtype=KvDtype.SIXTEEN_BITS)
    assert memory(sixteen, asked).kv_bytes_per_token == memory(CHAT).kv_bytes_per_token


def test_the_users_arguments_win_in_the_memory_too() -> None:
    args = ("--kv-cache-dtype", "bfloat16", "--speculative-config", "{}", "--language-model-only")
    own = replace(CHAT, engines=(replace(VLLM, args=args),))
    asked = replace(own, kv_dtype=KvDtype.FP8, speculation=DRAFT.source, text_only=True)
    host = machine(SEES)
    assert memory(asked, host) == memory(own, host)
    assert "eagle3" not in words(asked, host)


def test_text_only_frees_the_vision_tower() -> None:
    spec, host = replace(CHAT, text_only=True), machine(SEES)
    assert memory(spec, host).weights_bytes == memory(CHAT, host).weights_bytes - GIB
    quantised = machine(replace(SEES, quantization="fp8"))
    assert memory(spec, quantised).weights_bytes == memory(CHAT, quantised).weights_bytes - GIB // 4
    assert "--language-model-only" in words(spec, host)
    assert "--language-model-only" not in words(spec)  # the model reads text alone


def test_without_a_prefix_cache_a_request_holds_one_state() -> None:
    host, spec = machine(HYBRID), replace(CHAT, prefix_cache=False)
    assert memory(spec, host).kv_bytes_per_request * 2 == memory(CHAT, host).kv_bytes_per_request
    own = replace(CHAT, engines=(replace(VLLM, args=("--no-enable-prefix-caching",)),))
    assert memory(own, host).kv_bytes_per_request == memory(spec, host).kv_bytes_per_request


@pytest.mark.parametrize(
    ("engine", "spec", "info", "expected"),
    [
        (TRTLLM, replace(CHAT, speculation="ngram"), QWEN_8B, "trtllm: the names of its settings"),
        (VLLM, replace(CHAT, speculation="mtp"), QWEN_8B, "vllm: this checkpoint has no layers that predict"),
        (TRTLLM, replace(CHAT, text_only=True), SEES, "trtllm: TensorRT-LLM always loads all"),
        (SGLANG, replace(CHAT, text_only=True), SEES, "sglang: SGLang always loads all of Qwen3VLFor"),
        (SGLANG, replace(CHAT, text_only=True), replace(SEES, architectures=()), "all of this model"),
        (
            TRTLLM,
            replace(CHAT, kv_dtype=KvDtype.SIXTEEN_BITS),
            replace(QWEN_8B, kv_dtype="fp8"),
            "trtllm: the checkpoint asks for a cache in fp8",
        ),
        (
            SGLANG,
            replace(CHAT, kv_dtype=KvDtype.SIXTEEN_BITS),
            replace(QWEN_8B, kv_dtype="fp8", dtype="float16"),
            "SGLang has no cache in float16",
        ),
    ],
)
def test_refuses_what_an_engine_cannot(engine: EngineSpec, spec: ModelSpec, info: ModelInfo, expected: str) -> None:
    (problem,) = problems(replace(spec, engines=(engine,)), machine(info))
    assert expected in problem.reason


def test_refuses_speculation_and_offload_where_there_is_nothing_to_predict() -> None:
    embed = ModelSpec(name="embed", source="BAAI/bge-m3", engines=(VLLM,), speculation="ngram", kv_offload_bytes=GIB)
    assert [problem.reason for problem in problems(embed, machine())] == [
        "vllm: this model generates no text",
        "vllm: this model has no KV cache",
    ]


@pytest.mark.parametrize("engine", [VLLM, SGLANG, TRTLLM])
def test_an_fp8_cache_needs_a_gpu_that_reads_it(engine: EngineSpec) -> None:
    spec = replace(CHAT, engines=(engine,), kv_dtype=KvDtype.FP8)
    (problem,) = problems(spec, machine(QWEN_8B, RTX_3090, replace(gpu(1, total_gib=24), compute_capability="8.9")))
    assert str(problem) == (
        f"BERTH_MODELS: chat.kv_dtype='fp8': {engine.engine}: an FP8 cache needs compute capability 8.9: "
        "NVIDIA GeForce RTX 3090 (8.6). Allowed: auto or 16bit on these GPUs. Example: kv_dtype: auto"
    )


def test_only_the_named_gpus_count() -> None:
    newer = replace(gpu(1), compute_capability="8.9")
    spec = replace(CHAT, kv_dtype=KvDtype.FP8, gpus=(1,))
    assert replica(spec, machine(QWEN_8B, RTX_3090, newer)).gpus == (1,)


def test_auto_leaves_out_what_an_engine_cannot() -> None:
    spec = replace(CHAT, engines=(VLLM, TRTLLM), speculation="auto")
    first, second = make_plan(Settings(models=(spec,)), machine(WITH_MTP)).replicas
    assert first.launch
    assert second.launch
    assert "--speculative-config" in first.launch.argv
    assert not any("speculation" in note for note in second.launch.notes)


def test_the_users_arguments_are_not_checked() -> None:
    own = replace(VLLM, args=("--kv-cache-dtype", "int8_per_token_head"))
    assert replica(replace(CHAT, engines=(own,), kv_dtype=KvDtype.FP8), machine(QWEN_8B, RTX_3090)).gpus == (0,)


def test_an_engine_that_is_not_installed_is_no_second_problem() -> None:
    only = {EngineName.VLLM: ALL_ENGINES[EngineName.VLLM]}
    spec = replace(CHAT, engines=(TRTLLM,), speculation="ngram")
    (problem,) = problems(spec, machine(installed=only))
    assert problem.variable == "BERTH_MODELS: chat.engines"


OFFLOAD = replace(CHAT, kv_offload_bytes=40 * GIB)
PAIR = replace(OFFLOAD, engines=(VLLM, SGLANG))


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        (OFFLOAD, True),
        (PAIR, True),  # one at a time
        (replace(PAIR, standby=Standby.HOT), False),
        (replace(PAIR, standby=Standby.WARM), False),
        (replace(OFFLOAD, kv_offload_bytes=80 * GIB), False),
    ],
)
def test_offload_counts_as_ram(spec: ModelSpec, fits: bool) -> None:
    host = machine(memory_gib=64)
    if fits:
        assert "--kv-offloading-size" in words(spec, host)
        return
    with pytest.raises(Exception, match=r"kv_offload takes 80\.0 GiB of memory \(chat\)"):
        make_plan(Settings(models=(spec,)), host)


def test_offload_leaves_less_for_models_on_the_cpu() -> None:
    installed = {**ALL_ENGINES, EngineName.VLLM: CPU_ENGINES[EngineName.VLLM]}
    cpu = ModelSpec(name="cpu", source=QWEN_8B.source, engines=(VLLM,))
    host = machine(memory_gib=64, installed=installed)
    alone, beside = (
        make_plan(Settings(models=models), host).replica("cpu-vllm").memory
        for models in ((cpu,), (cpu, replace(OFFLOAD, engines=(SGLANG,))))
    )
    assert alone
    assert beside
    assert alone.kv_bytes > beside.kv_bytes


def test_offload_needs_a_memory_of_its_own_on_the_gpu() -> None:
    unified = replace(gpu(), name="GB10", unified=True)
    (problem,) = problems(replace(OFFLOAD, kv_offload_bytes=GIB), machine(QWEN_8B, unified))
    assert "no memory besides the RAM" in problem.reason
    (on_cpu,) = problems(OFFLOAD, host_info(installed=CPU_ENGINES))
    assert "in RAM already" in on_cpu.reason


def test_a_checkpoints_cache_stays_as_it_is_on_the_cpu() -> None:
    info = replace(QWEN_8B, kv_dtype="fp8")
    host = host_info(installed=CPU_ENGINES, describe=lambda _spec: info)
    (problem,) = problems(replace(CHAT, kv_dtype=KvDtype.SIXTEEN_BITS), host)
    assert "build for the CPU" in problem.reason


def test_a_cache_of_16_bits_is_refused_where_the_engine_would_keep_32() -> None:
    info = replace(QWEN_8B, dtype="float32")
    host = host_info(installed=CPU_ENGINES, describe=lambda _spec: info)
    (problem,) = problems(replace(CHAT, kv_dtype=KvDtype.SIXTEEN_BITS), host)
    assert "the checkpoint is in float32" in problem.reason
    assert memory(replace(CHAT, kv_dtype=KvDtype.SIXTEEN_BITS), machine(info)).kv_bytes_per_token


def test_the_yaml_form_has_all_of_them() -> None:
    (spec,) = parse_models(
        "chat: {source: Qwen/Qwen3-8B, speculation: owner/draft, kv_dtype: fp8, text_only: true, prefix_cache: true, "
        "kv_offload: 32GiB}"
    )
    assert (spec.speculation, spec.kv_dtype, spec.text_only) == ("owner/draft", "fp8", True)
    assert (spec.prefix_cache, spec.kv_offload_bytes) == (True, 32 * GIB)
    (unset,) = parse_models("chat: {source: Qwen/Qwen3-8B, kv_offload: off, speculation: ./draft}")
    assert unset.kv_offload_bytes is None
    assert unset.speculation.startswith("/")


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("speculation: eagle", "unknown value"),
        ("speculation: a/b/c", "not a hub id"),
        ("kv_dtype: int4", "unknown value"),
        ("text_only: perhaps", "not a boolean"),
        ("kv_offload: lmcache:tcp://host:1", "the engines of this image have no lmcache"),
        ("kv_offload: mooncake:tcp://host:1", "the engines of this image have no mooncake"),
        ("kv_offload: 32GiB+disk:200GiB", "only RAM is supported"),
        ("kv_offload: 32", "is the unit missing"),
        ("kv_offload: 32GiB, prefix_cache: false", "without a prefix cache there is nothing to keep"),
    ],
)
def test_wrong_values_are_named(field: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_models(f"chat: {{source: Qwen/Qwen3-8B, {field}}}")


def test_attached_engines_have_none_of_them() -> None:
    fields = "speculation: mtp, kv_dtype: fp8, text_only: true, prefix_cache: false, kv_offload: 2GiB"
    with pytest.raises(ConfigError) as caught:
        parse_models(f"chat: {{engines: [{{url: 'http://127.0.0.1:9'}}], {fields}}}")
    assert [problem.variable.rpartition(".")[2] for problem in caught.value.problems] == [
        *("speculation", "kv_dtype", "text_only", "prefix_cache", "kv_offload", "kv_offload")
    ]
