from pathlib import Path

import pytest

from berth.host.installed_engines import driver_for, runtime_version, version


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
