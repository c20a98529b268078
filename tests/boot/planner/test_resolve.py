"""Which engines shall serve a model, and every way in which a model's entry can be wrong."""

from dataclasses import replace

import pytest

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import ResolvedModel, wanted_models
from berth.errors import ConfigError, Problem
from berth.plan import EngineName, Gpu, Task
from tests.fakes.machine import ALL_ENGINES, CPU_ENGINES, QWEN_8B, gpu, gpus, surroundings

VLLM, SGLANG, TRTLLM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM))
SIM = EngineSpec(engine=EngineName.SIM)
REMOTE = EngineSpec(engine=EngineName.REMOTE, url="http://127.0.0.1:9100")
QWEN = "Qwen/Qwen3-8B"


def wanted(spec: ModelSpec, here: HostInfo | None = None) -> ResolvedModel:
    return wanted_models(Settings(models=(spec,)), here or surroundings(*gpus(2)))[0]


def problems(*specs: ModelSpec, here: HostInfo | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        wanted_models(Settings(models=specs), here or surroundings(*gpus(2)))
    return caught.value.problems


def test_without_engines_one_is_chosen_with_the_users_options() -> None:
    options = {EngineName.VLLM: EngineOptions(args=("--enforce-eager",), env={"A": "1"})}

    model = wanted(ModelSpec(name="chat", source=QWEN, options=options))

    assert model.entries == (EngineSpec(engine=EngineName.VLLM, args=("--enforce-eager",), env={"A": "1"}),)
    assert model.reason.startswith("chosen: first of BERTH_ENGINES (vllm, sglang, trtllm)")
    assert (model.info, model.task) == (QWEN_8B, Task.GENERATE)


def test_named_engines_are_kept_in_their_order() -> None:
    model = wanted(ModelSpec(name="chat", source=QWEN, engines=(SGLANG, VLLM)))

    assert (model.entries, model.reason) == ((SGLANG, VLLM), "named in BERTH_MODELS")


def test_a_task_that_the_user_states_counts() -> None:
    model = wanted(ModelSpec(name="chat", source=QWEN, task=Task.EMBED))

    assert model.task == Task.EMBED
    assert model.info is not None
    assert model.info.task == Task.EMBED


@pytest.mark.parametrize(
    ("engines", "reason"), [((SIM,), "named in BERTH_MODELS"), ((REMOTE, SIM), "attached by its URL")]
)
def test_nothing_is_looked_up_for_engines_that_read_no_model(engines: tuple[EngineSpec, ...], reason: str) -> None:
    def never(_spec: ModelSpec) -> ModelInfo:
        raise AssertionError

    model = wanted(ModelSpec(name="m", source="anything at all", engines=engines), surroundings(describe=never))

    assert (model.info, model.reason, model.task) == (None, reason, Task.GENERATE)


def test_a_size_that_is_not_known_is_guessed() -> None:
    here = surroundings(*gpus(1), describe=lambda spec: ModelInfo(source=spec.source))

    model = wanted(ModelSpec(name="m", source="x/llama-3b"), here)

    assert model.info is not None
    assert model.info.weights_bytes == 6 * 10**9


MIG = (gpu(0, mig=True), gpu(1))


@pytest.mark.parametrize(
    ("fields", "machine", "variable", "value", "words"),
    [
        ({"context": 50000}, gpus(1), "context", "50000", ["the 40960 tokens", "up to 40960", "context: 40960"]),
        ({"gpus": 3}, gpus(4), "gpus", "3", ["32 attention heads", "1, 2, 4, 8, 16 GPUs"]),
        ({"gpus": (0, 1, 2)}, gpus(4), "gpus", "(0, 1, 2)", ["cannot be shared by 3 GPUs"]),
        ({"gpus": (7,)}, gpus(2), "gpus", "7", ["no such GPU", "0 (GPU-00000000-", "1 (GPU-00000001-"]),
        ({"gpus": ("GPU-x",)}, gpus(1), "gpus", "GPU-x", ["no such GPU"]),
        ({"gpus": (0, "GPU-00000000")}, gpus(2), "gpus", "GPU-00000000", ["named twice"]),
        ({"gpus": (0,)}, MIG, "gpus", "0", ["MIG", "1 (GPU-00000001-"]),
        ({"gpus": (0,)}, MIG[:1], "gpus", "0", ["MIG", "Allowed: none"]),
        (
            {"engines": (TRTLLM,), "task": Task.EMBED},
            gpus(1),
            "engines",
            "trtllm",
            ["no embeddings", "engines: [vllm]"],
        ),
    ],
)
def test_what_cannot_be_is_told_with_what_can(
    fields: dict[str, object], machine: tuple[Gpu, ...], variable: str, value: str, words: list[str]
) -> None:
    spec = replace(ModelSpec(name="chat", source=QWEN), **fields)  # type: ignore[arg-type]  # a table's values

    (problem,) = problems(spec, here=surroundings(*machine))

    assert (problem.variable, problem.value) == (f"BERTH_MODELS: chat.{variable}", value)
    assert all(word in str(problem) for word in words)


@pytest.mark.parametrize(
    ("engines", "machine", "installed", "words"),
    [
        ((VLLM,), (), {}, ["not installed", "BERTH_ENGINE_HOME", "--gpus all", "engines: [sim]"]),
        ((VLLM,), (), ALL_ENGINES, ["vllm 0.33.0 is built for GPUs, and no NVIDIA driver here", "--gpus all", "sim"]),
        ((SGLANG,), (), CPU_ENGINES, ["not installed", "engines: [vllm]"]),
    ],
)
def test_a_named_engine_that_cannot_run_here_is_a_problem(
    engines: tuple[EngineSpec, ...], machine: tuple[Gpu, ...], installed: dict[EngineName, object], words: list[str]
) -> None:
    here = surroundings(*machine, installed=installed)  # type: ignore[arg-type]  # a table's values

    (problem,) = problems(ModelSpec(name="chat", source=QWEN, engines=engines), here=here)

    assert problem.variable == "BERTH_MODELS: chat.engines"
    assert all(word in str(problem) for word in words)


def test_an_option_that_stretches_the_context_is_believed() -> None:
    stretched = replace(VLLM, args=("--hf-overrides", '{"rope_parameters": {}}'))

    assert wanted(ModelSpec(name="chat", source=QWEN, context=131072, engines=(stretched,))).entries == (stretched,)


def test_gpus_by_number_are_no_problem_where_there_is_none() -> None:
    here = surroundings(installed=CPU_ENGINES)

    assert wanted(ModelSpec(name="chat", source=QWEN, gpus=(0,)), here).spec.gpus == (0,)


def test_all_problems_of_all_models_come_at_once() -> None:
    def describe(spec: ModelSpec) -> ModelInfo:
        if spec.name == "lost":
            problem = Problem(variable="BERTH_MODELS", value=spec.source, reason="no", allowed="yes", example="so")
            raise ConfigError([problem])
        return QWEN_8B

    found = problems(
        ModelSpec(name="lost", source="x/y"),
        ModelSpec(name="chat", source=QWEN, context=10**6, gpus=5),
        here=surroundings(*gpus(1), describe=describe),
    )

    assert [problem.variable for problem in found] == [
        "BERTH_MODELS: lost.source",
        "BERTH_MODELS: chat.context",
        "BERTH_MODELS: chat.gpus",
    ]


def test_no_engine_for_a_model_keeps_its_variable() -> None:
    (problem,) = problems(ModelSpec(name="chat", source=QWEN), here=surroundings(installed={}))

    assert problem.variable == "BERTH_ENGINES"
