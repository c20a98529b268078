"""Disk, memory and driver that the models need, checked before any download."""

from dataclasses import replace

import pytest

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.requirements import check_requirements, outdated_driver, sleeping_weights
from berth.boot.planner.resolve import resolve_models
from berth.boot.preflight import Finding, Level, What
from berth.plan import EngineName, Standby
from tests.fakes.machine import CPU_ENGINES, gpu, host_info

VLLM, SGLANG, SIM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.SIM))
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", engines=(VLLM, SIM))


def found(host: HostInfo, *models: ModelSpec) -> list[Finding]:
    settings = Settings(models=models or (CHAT,))
    return check_requirements(resolve_models(settings, host), settings, host)


def driven(cuda: str, runtime: str, driver: str = "570.10") -> HostInfo:
    host = host_info(gpu(), cuda_runtime=runtime)
    return replace(host, inventory=replace(host.inventory, cuda_version=cuda, driver_version=driver))


@pytest.mark.parametrize(
    ("free_gib", "download_gib", "refused"), [(10, 15.3, True), (10, 9, False), (None, 15.3, False), (10, 0, False)]
)
def test_disk_too_small_for_the_downloads_fails(free_gib: float | None, download_gib: float, refused: bool) -> None:
    findings = found(host_info(gpu(), disk_free_gib=free_gib, download_gib=download_gib))

    assert [one.what for one in findings if one.level is Level.FAIL] == ([What.DATA_DIR] if refused else [])
    assert not refused or "'/data' has 10.0 GiB free" in findings[0].detail


@pytest.mark.parametrize(
    ("cuda", "runtime", "levels"),
    [
        ("12.8", "13.0.96", [Level.FAIL]),
        ("13.0", "13.2.1", []),  # within a major version every driver does
        ("12.4", "12.9.79", []),
        ("11.8", "12.9.79", [Level.FAIL]),
        ("12.8", "", [Level.WARN]),  # nobody knows what it is built for
        ("", "13.0.96", []),
    ],
)
def test_driver_older_than_the_engines_cuda(cuda: str, runtime: str, levels: list[Level]) -> None:
    assert [one.level for one in found(driven(cuda, runtime))] == levels


def test_driver_failure_names_engine_version_and_remedy() -> None:
    [one] = found(driven("12.8", "13.0.96"))

    assert one.what is What.DRIVER
    assert one.detail == "driver 570.10 runs CUDA 12.8, and vllm 0.33.0 is built for CUDA 13.0.96"
    assert one.remedy.startswith("Update the NVIDIA driver on the host to 580 or newer; or, on data-centre GPUs, ")
    assert "driver ? runs" in found(driven("12.8", "13.0.96", driver=""))[0].detail


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "VLLM_ENABLE_CUDA_COMPATIBILITY"])
def test_only_warns_with_compatibility_libraries(name: str) -> None:
    model = replace(CHAT, engines=(replace(VLLM, env={name: "1"}),))

    assert [one.level for one in found(driven("12.8", "13.0.96"), model)] == [Level.WARN]


def test_reports_each_engine_once() -> None:
    host = driven("12.8", "13.0.96")

    findings = found(host, replace(CHAT, engines=(VLLM, SGLANG)), replace(CHAT, name="again"))

    assert [one.detail.partition(" and ")[2].split()[0] for one in findings] == ["vllm", "sglang"]


def test_cpu_builds_and_hosts_without_gpus_need_no_driver() -> None:
    assert found(replace(driven("12.8", "13.0.96"), installed=CPU_ENGINES)) == []
    assert found(host_info(installed=CPU_ENGINES)) == []


WARM = replace(CHAT, engines=(VLLM, SGLANG), standby=Standby.WARM)


@pytest.mark.parametrize(
    ("model", "memory_gib", "detail"),
    [
        (WARM, 16, ""),
        (WARM, 15, "engines that sleep keep 15.3 GiB of weights in memory (chat), and 15.0 GiB are available"),
        (replace(WARM, engines=(VLLM, SGLANG, SGLANG)), 30, "engines that sleep keep 30.5 GiB"),
        (replace(WARM, standby=Standby.COLD), 1, ""),
        (replace(WARM, standby=Standby.COLD, sleep=True), 31, ""),
        (replace(WARM, engines=(VLLM, SIM)), 1, ""),
    ],
)
def test_weights_of_sleeping_engines_must_fit_into_memory(model: ModelSpec, memory_gib: float, detail: str) -> None:
    findings = found(host_info(gpu(), memory_gib=memory_gib), model)

    assert [(one.what, one.level) for one in findings] == ([(What.RAM, Level.FAIL)] if detail else [])
    assert all(one.detail.startswith(detail) and "docker run --memory" in one.remedy for one in findings)


def test_models_that_take_turns_need_not_all_keep_their_weights_in_memory() -> None:
    [one] = found(host_info(gpu(), memory_gib=30), replace(WARM, standby=Standby.COLD, sleep=True))
    assert (one.what, one.level) == (What.RAM, Level.WARN)
    assert one.detail.startswith("models that may sleep have 30.5 GiB of weights (chat), and 30.0 GiB")


def test_does_not_count_weights_of_engines_on_the_cpu() -> None:
    pair = replace(WARM, source="/models/tiny", engines=(VLLM, VLLM))
    assert found(host_info(installed=CPU_ENGINES), pair) == []


def test_warns_about_sleeping_engines_of_unknown_size() -> None:
    unknown = ModelInfo(source="x/unknown", model_type="llama", heads=8, kv_heads=8)
    [one] = found(host_info(gpu(), describe=lambda _: unknown), WARM)

    assert (one.level, one.what) == (Level.WARN, What.RAM)
    assert "weights of chat is unknown" in one.detail


def test_weights_and_driver_are_separate_checks() -> None:
    host = driven("12.8", "13.0.96")
    warm = replace(CHAT, engines=(VLLM, SGLANG), standby=Standby.WARM)
    models = resolve_models(Settings(models=(warm,)), replace(host, memory_available_bytes=2**30))

    assert {one.what for one in sleeping_weights(models, replace(host, memory_available_bytes=2**30))} == {What.RAM}
    assert {one.what for one in outdated_driver(models, host)} == {What.DRIVER}
