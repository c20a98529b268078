"""Versions from lock files."""

from pathlib import Path

import pytest

from berth.plan import EngineName
from etc.tools.contract.locks import latest, lines, locked, normal, pins, version_of
from etc.tools.contract.targets import Target
from etc.tools.setup.progress import SetupError

LOCK = """\
# vllm==9.9.9 is what a comment says
numpy==2.3.5 ; python_full_version < '3.13' \\
    --hash=sha256:aa
numpy==2.4.6 ; python_full_version >= '3.13' \\
    --hash=sha256:bb
Flash_Infer.Python==0.7.2.post1 \\
    --hash=sha256:cc
vllm[audio]==0.33.0+cpu
vllm-extra==1.0
"""
TARGET = Target(name="vllm", engine=EngineName.VLLM, distribution="vllm", package="vllm", gpus=(1,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vllm.txt").write_text(LOCK)
    return tmp_path


def test_lock_has_versions(folder: Path) -> None:
    found = pins(folder / "vllm.txt")

    assert found["vllm"] == "0.33.0+cpu"
    assert found["flash-infer-python"] == "0.7.2.post1"
    assert version_of(TARGET, folder) == "0.33.0+cpu"


def test_missing_lock_has_no_versions(tmp_path: Path) -> None:
    assert pins(tmp_path / "no.txt") == {}
    assert list(lines(tmp_path / "no.txt")) == []
    assert version_of(TARGET, tmp_path) is None


def test_lines_keep_markers_without_hashes(folder: Path) -> None:
    assert [line for name, line in lines(folder / "vllm.txt") if name == "numpy"] == [
        "numpy==2.3.5 ; python_full_version < '3.13'",
        "numpy==2.4.6 ; python_full_version >= '3.13'",
    ]


def test_every_version_counts_once_with_its_lock(folder: Path) -> None:
    (setup := folder / "setup.py").write_text('GPU = "vllm==0.32.0"\nREQUIREMENT = "vllm==0.33.0+cpu"\n')

    found = locked([TARGET], folder, [setup, folder / "gone.py"])

    assert {(lock.version, lock.file.name) for lock in found} == {("0.33.0+cpu", "vllm.txt")}
    (setup).write_text('GPU = "vllm==0.32.0"\n')
    assert {lock.version for lock in locked([TARGET], folder, [setup])} == {"0.33.0+cpu", "0.32.0"}


@pytest.mark.parametrize("name", ["Huggingface_Hub", "huggingface.hub", "huggingface-hub"])
def test_normalizes_names(name: str) -> None:
    assert normal(name) == "huggingface-hub"


def fake_uv(folder: Path, script: str) -> Path:
    uv = folder / "uv"
    uv.write_text(f"#!/bin/sh\n{script}\n")
    uv.chmod(0o755)
    return uv


def test_latest_release_is_resolved_by_the_index(tmp_path: Path) -> None:
    uv = fake_uv(tmp_path, 'read -r name; echo "$name==0.34.0"; echo "    # via -r -"')
    assert latest("vllm", uv) == "0.34.0"


def test_unreachable_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="the newest vllm cannot be found: no route"):
        latest("vllm", fake_uv(tmp_path, "echo no route >&2; exit 2"))
