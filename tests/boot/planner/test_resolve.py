"""Which engines shall serve a model, and every way in which a model's entry can be wrong."""

from dataclasses import replace

import pytest

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import (
    ResolvedModel,
    context_problems,
    count_problems,
    engine_problems,
    gpu_problems,
    resolve_model,
    resolve_models,
)
from berth.errors import ConfigError, Problem
from berth.plan import EngineName, Gpu, Task
from tests.fakes.machine import ALL_ENGINES, CPU_ENGINES, QWEN_8B, gpu, gpus, host_info, instance

VLLM, SGLANG, TRTLLM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM))
SIM = EngineSpec(engine=EngineName.SIM)
REMOTE = EngineSpec(engine=EngineName.REMOTE, url="http://127.0.0.1:9100")
QWEN = "Qwen/Qwen3-8B"


def resolved(spec: ModelSpec, host: HostInfo | None = None) -> ResolvedModel:
    return resolve_models(Settings(models=(spec,)), host or host_info(*gpus(2)))[0]


def problems(*specs: ModelSpec, host: HostInfo | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        resolve_models(Settings(models=specs), host or host_info(*gpus(2)))
    return caught.value.problems


def test_chooses_an_engine_with_the_users_options() -> None:
    options = {EngineName.VLLM: EngineOptions(args=("--enforce-eager",), env={"A": "1"})}

    model = resolved(ModelSpec(name="chat", source=QWEN, options=options))

    assert model.entries == (EngineSpec(engine=EngineName.VLLM, args=("--enforce-eager",), env={"A": "1"}),)
    assert model.reason.startswith("chosen: first of BERTH_ENGINES (vllm, sglang, trtllm)")
    assert (model.info, model.task) == (QWEN_8B, Task.GENERATE)


def test_keeps_the_order_of_named_engines() -> None:
    model = resolved(ModelSpec(name="chat", source=QWEN, engines=(SGLANG, VLLM)))

    assert (model.entries, model.reason) == ((SGLANG, VLLM), "named in BERTH_MODELS")


def test_uses_the_task_of_the_user() -> None:
    model = resolved(ModelSpec(name="chat", source=QWEN, task=Task.EMBED))

    assert model.task == Task.EMBED
    assert model.info is not None
    assert model.info.task == Task.EMBED


@pytest.mark.parametrize(
    ("engines", "reason"), [((SIM,), "named in BERTH_MODELS"), ((REMOTE, SIM), "attached by its URL")]
)
def test_looks_nothing_up_for_engines_that_read_no_model(engines: tuple[EngineSpec, ...], reason: str) -> None:
    def never(_spec: ModelSpec) -> ModelInfo:
        raise AssertionError

    model = resolved(ModelSpec(name="m", source="anything at all", engines=engines), host_info(describe=never))

    assert (model.info, model.reason, model.task) == (None, reason, Task.GENERATE)


def test_estimates_an_unknown_size() -> None:
    host = host_info(*gpus(1), describe=lambda spec: ModelInfo(source=spec.source))

    model = resolved(ModelSpec(name="m", source="x/llama-3b"), host)

    assert model.info is not None
    assert model.info.weights_bytes == 6 * 10**9


MIG = (gpu(0, mig=True), gpu(1))


@pytest.mark.parametrize(
    ("fields", "machine", "variable", "value", "words"),
    [
        ({"context": 50000}, gpus(1), "context", "50000", ["the 40960 tokens", "up to 40960", "context: 40960"]),
        ({"gpus": 3}, gpus(4), "gpus", "3", ["32 attention heads", "1, 2, 4, 8, 16 GPUs"]),
        ({"gpus": (0, 1, 2)}, gpus(4), "gpus", "(0, 1, 2)", ["cannot be divided among 3 GPUs"]),
        ({"gpus": (7,)}, gpus(2), "gpus", "7", ["no such GPU", "0 (GPU-00000000-", "1 (GPU-00000001-"]),
        ({"gpus": ("GPU-x",)}, gpus(1), "gpus", "GPU-x", ["no such GPU"]),
        ({"gpus": (0, "GPU-00000000")}, gpus(2), "gpus", "GPU-00000000", ["named twice"]),
        ({"gpus": (0,)}, MIG, "gpus", "0", ["MIG", "1 (GPU-00000001-"]),
        ({"gpus": (0,)}, MIG[:1], "gpus", "0", ["MIG", "Allowed: none"]),
        ({"gpus": (100, 1)}, (instance(), gpu(1)), "gpus", "100", ["one MIG instance, not on several"]),
        (
            {"engines": (TRTLLM,), "task": Task.EMBED},
            gpus(1),
            "engines",
            "trtllm",
            ["no embeddings", "engines: [vllm]"],
        ),
    ],
)
def test_rejects_invalid_values_with_alternatives(
    fields: dict[str, object], machine: tuple[Gpu, ...], variable: str, value: str, words: list[str]
) -> None:
    spec = replace(ModelSpec(name="chat", source=QWEN), **fields)  # type: ignore[arg-type]  # a table's values

    (problem,) = problems(spec, host=host_info(*machine))

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
def test_rejects_an_engine_that_cannot_run_here(
    engines: tuple[EngineSpec, ...], machine: tuple[Gpu, ...], installed: dict[EngineName, object], words: list[str]
) -> None:
    host = host_info(*machine, installed=installed)  # type: ignore[arg-type]  # a table's values

    (problem,) = problems(ModelSpec(name="chat", source=QWEN, engines=engines), host=host)

    assert problem.variable == "BERTH_MODELS: chat.engines"
    assert all(word in str(problem) for word in words)


def test_allows_a_longer_context_with_an_option_for_it() -> None:
    stretched = replace(VLLM, args=("--hf-overrides", '{"rope_parameters": {}}'))

    assert resolved(ModelSpec(name="chat", source=QWEN, context=131072, engines=(stretched,))).entries == (stretched,)


def test_ignores_named_gpus_on_a_host_without_gpus() -> None:
    host = host_info(installed=CPU_ENGINES)

    assert resolved(ModelSpec(name="chat", source=QWEN, gpus=(0,)), host).spec.gpus == (0,)


def test_reports_all_problems_of_all_models() -> None:
    def describe(spec: ModelSpec) -> ModelInfo:
        if spec.name == "lost":
            problem = Problem(variable="BERTH_MODELS", value=spec.source, reason="no", allowed="yes", example="so")
            raise ConfigError([problem])
        return QWEN_8B

    found = problems(
        ModelSpec(name="lost", source="x/y"),
        ModelSpec(name="chat", source=QWEN, context=10**6, gpus=5),
        host=host_info(*gpus(1), describe=describe),
    )

    assert [problem.variable for problem in found] == [
        "BERTH_MODELS: lost.source",
        "BERTH_MODELS: chat.context",
        "BERTH_MODELS: chat.gpus",
    ]


def test_problem_about_engines_keeps_its_variable() -> None:
    (problem,) = problems(ModelSpec(name="chat", source=QWEN), host=host_info(installed={}))

    assert problem.variable == "BERTH_ENGINES"


def test_each_check_reports_its_own_field() -> None:
    host = host_info(*gpus(2))
    spec = ModelSpec(name="chat", source=QWEN, engines=(VLLM, SGLANG), gpus=(0, 9, 1), context=10**6)
    model = resolve_model(spec, Settings(models=(spec,)), host)

    assert model.info is not None
    assert engine_problems(model, host) == []
    assert [one.variable for one in context_problems(model, model.info)] == ["BERTH_MODELS: chat.context"]
    assert [one.variable for one in count_problems(model, model.info)] == ["BERTH_MODELS: chat.gpus"]
    assert [(one.value, one.reason) for one in gpu_problems(model, host)] == [("9", "there is no such GPU here")]


@pytest.mark.parametrize(
    ("url", "port", "own"),
    [
        ("http://localhost:8000", 8000, True),
        ("http://LOCALHOST:8000/berth", 8000, True),
        ("http://[::1]:8000", 8000, True),
        ("http://localhost", 80, True),
        ("https://localhost", 443, True),
        ("http://localhost:9000", 8000, False),
        ("http://other:8000", 8000, False),
    ],
)
def test_rejects_the_url_of_this_berth(url: str, port: int, own: bool) -> None:
    host = replace(host_info(), reaches=lambda name, listen: name in {"localhost", "::1"} and listen == "0.0.0.0")
    attached = EngineSpec(engine=EngineName.REMOTE, url=url)
    spec = ModelSpec(name="chat", source="x", engines=(EngineSpec(engine=EngineName.SIM), attached))
    settings = Settings(models=(spec,), port=port)

    if not own:
        assert resolve_models(settings, host)
        return
    with pytest.raises(ConfigError) as error:
        resolve_models(settings, host)
    (problem,) = error.value.problems
    assert (problem.variable, problem.value) == ("BERTH_MODELS: chat.engines", url)
    assert "Berth itself listens there" in problem.reason
