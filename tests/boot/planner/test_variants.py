"""Variants of a model that fit where the model does not: named in the error, taken with `variant: auto`."""

from dataclasses import replace

import pytest

from berth.boot.catalogue.lookup import Catalogue
from berth.boot.catalogue.schema import Precision, Variant, document
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.config.models import parse_models
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.variants import expected_bytes, others, pasted
from berth.errors import ConfigError, PlacementError, Problem
from berth.plan import EngineName, Gpu, Plan
from tests.fakes.machine import GIB, LLAMA_70B, QWEN_8B, gpu, gpus, host_info

BIG = LLAMA_70B.source
VARIANTS = [
    {"id": BIG, "precision": "bf16"},
    {"id": "me/Llama-70B-NVFP4", "precision": "nvfp4", "memory_bytes": 51 * GIB},
    {"id": "me/Llama-70B-FP8", "precision": "fp8", "weights_bytes": 66 * GIB},
    {"id": "me/Llama-70B-int8", "precision": "int8", "least_capability": "12.0", "weights_bytes": GIB},
    {"id": "me/Llama-unsized", "precision": "int4"},
]
CATALOGUE = Catalogue(
    document({"models": [{"id": BIG, "variants": VARIANTS}], "capabilities": {"nvfp4": {"least": "8.0"}}})
)
SIZES = {"me/Llama-70B-NVFP4": 42 * GIB, "me/Llama-70B-FP8": 66 * GIB}


def describe(spec: ModelSpec) -> ModelInfo:
    """The hub: it has the models with a size here, and not the others of the catalogue."""
    if spec.source == QWEN_8B.source:
        return QWEN_8B
    if spec.source not in {BIG, *SIZES}:
        raise ConfigError([Problem(variable="BERTH_MODELS", value=spec.source, reason="x", allowed="x", example="x")])
    weights_bytes = SIZES.get(spec.source, LLAMA_70B.weights_bytes)
    entry = CATALOGUE.find(spec.source)
    return replace(LLAMA_70B, source=spec.source, weights_bytes=weights_bytes, catalogue=entry)


def host(*found: Gpu) -> HostInfo:
    return replace(host_info(*found, describe=describe), catalogue=CATALOGUE)


def planned(*specs: ModelSpec, machine: tuple[Gpu, ...]) -> Plan:
    return make_plan(Settings(models=specs), host(*machine))


def rejected(*specs: ModelSpec, machine: tuple[Gpu, ...]) -> list[str]:
    with pytest.raises(PlacementError) as caught:
        planned(*specs, machine=machine)
    return str(caught.value).splitlines()


CHAT = ModelSpec(name="chat", source=BIG)
AUTO = replace(CHAT, variant="auto")


def test_an_error_names_the_variants_that_fit_with_their_context() -> None:
    *_, head, line = rejected(CHAT, machine=gpus(1, total_gib=60))
    assert head == f"Variants of {BIG} that would fit (or let Berth choose, with `variant: auto`):"
    line, _, about = line.partition("  # ")
    assert line == '  - BERTH_MODELS="chat=me/Llama-70B-NVFP4"'
    assert about.startswith("nvfp4, about 42.5 GiB of weights, context ")


def test_what_an_error_names_is_planned_as_it_says() -> None:
    """Every line, pasted: the model fits, with at least nine tenths of the context."""
    machine = gpus(1, total_gib=80)
    offered = [line for line in rejected(CHAT, machine=machine) if "BERTH_MODELS=" in line]
    assert len(offered) == 2
    for line in offered:
        value, _, about = line.partition('="')[2].partition('"')
        plan = planned(*parse_models(value), machine=machine)
        context = int(about.partition("context ")[2].split()[0])
        assert (plan.models[0].context or 0) >= 0.9 * context


def test_the_most_exact_come_first_and_those_without_kernels_not_at_all() -> None:
    info, turing = describe(CHAT), replace(gpu(), compute_capability="7.5")
    assert [one.id for one in others(info, host(gpu()))] == [
        "me/Llama-70B-FP8",
        "me/Llama-70B-NVFP4",
        "me/Llama-unsized",
    ]
    assert [one.id for one in others(info, host(turing))] == ["me/Llama-70B-FP8", "me/Llama-unsized"]
    unknown = replace(gpu(), compute_capability="?")
    assert len(others(info, host(unknown))) == len(VARIANTS) - 1


def test_an_error_names_variants_for_a_gpu_of_unknown_capability() -> None:
    unknown = replace(gpu(total_gib=80), compute_capability="?")
    assert len([line for line in rejected(CHAT, machine=(unknown,)) if "BERTH_MODELS=" in line]) == 3


def test_a_model_made_from_one_of_the_catalogue_has_none() -> None:
    info = replace(describe(CHAT), source="me/finetuned", catalogue=CATALOGUE.find("me/finetuned", (BIG,)))
    assert others(info, host(gpu())) == []
    assert others(QWEN_8B, host(gpu())) == []


def test_auto_takes_the_first_that_fits_and_says_so() -> None:
    plan = planned(AUTO, machine=gpus(1, total_gib=80))
    assert (plan.models[0].name, plan.models[0].source) == ("chat", "me/Llama-70B-FP8")
    assert f"chat: variant: auto chose me/Llama-70B-FP8 (fp8): {BIG} does not fit" in plan.warnings
    assert planned(AUTO, machine=gpus(1, total_gib=60)).models[0].source == "me/Llama-70B-NVFP4"


def test_auto_takes_the_model_itself_where_that_fits() -> None:
    plan = planned(AUTO, machine=gpus(4))
    assert plan.models[0].source == BIG
    assert not any("variant" in warning for warning in plan.warnings)


def test_nothing_is_chosen_silently() -> None:
    assert any("BERTH_MODELS=" in line for line in rejected(CHAT, machine=gpus(1, total_gib=80)))
    assert not any("BERTH_MODELS=" in line for line in rejected(AUTO, machine=gpus(1, total_gib=10)))


def test_auto_leaves_the_other_models_as_they_are() -> None:
    small = ModelSpec(name="small", source=QWEN_8B.source)
    plan = planned(small, AUTO, machine=gpus(1))
    assert [route.source for route in plan.models] == [QWEN_8B.source, "me/Llama-70B-NVFP4"]
    (line,) = [line for line in rejected(small, CHAT, machine=gpus(1)) if "BERTH_MODELS=" in line]
    assert 'BERTH_MODELS="small=Qwen/Qwen3-8B chat=me/Llama-70B-NVFP4"' in line


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (CHAT, 'BERTH_MODELS="chat=a/b"'),
        (replace(CHAT, engines=(EngineSpec(engine=EngineName.SGLANG),)), 'BERTH_MODELS="chat=a/b@sglang"'),
        (replace(CHAT, revision="main"), 'BERTH_MODELS="chat=a/b"'),  # another repository has its own
        (replace(CHAT, context=4096), "chat: source: a/b"),
    ],
)
def test_the_line_says_all_that_is_set_or_only_the_change(spec: ModelSpec, line: str) -> None:
    assert pasted([spec], spec, "a/b") == line


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Variant(id="a/b-8B", precision=Precision.FP8, weights_bytes=5, memory_bytes=100), 5),
        (Variant(id="a/b", precision=Precision.FP8, memory_bytes=120), 100),
        (Variant(id="a/b-8B-FP8", precision=Precision.FP8, memory_bytes=120), int(8e9 * 1.05)),
        (Variant(id="a/b", precision=Precision.FP8), None),
    ],
)
def test_the_size_is_stated_or_the_larger_of_two_guesses(variant: Variant, expected: int | None) -> None:
    assert expected_bytes(variant) == expected
