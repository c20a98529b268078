"""What is said of GPUs, with and without NVIDIA's program, and of folders that are not there."""

import time
from pathlib import Path

import pytest

from berth.plan import RunPaths
from berth.report import machine
from berth.report.machine import container, gpus, versions


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Driver Version", "Driver Version"),
        ("echo no devices >&2; exit 9", "no devices"),
        ("exec sleep 60", "0.2 s"),
    ],
)
def test_gpus_are_described_by_nvidias_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(machine, "_GPU_QUERY_S", 0.2 if "sleep" in script else 60.0)
    began = time.monotonic()

    text = gpus({"PATH": f"{tmp_path}:/usr/bin:/bin"})

    assert words in text
    assert '"state"' in text
    assert time.monotonic() - began < 60


def test_without_nvidias_program_the_inventory_is_there() -> None:
    text = gpus({"PATH": "/nowhere"})
    assert text.startswith("{")
    assert "nvidia-smi is not installed here" in text


def test_the_container_is_described_where_folders_are_missing(tmp_path: Path) -> None:
    found = container(RunPaths(run_dir=str(tmp_path), data_dir=str(tmp_path / "nothing")))
    assert found["folders"]["run"]["free"] > 0
    assert found["folders"]["data"]["error"] == "No such file or directory"
    assert found["memory"]["available"] > 0
    assert found["limits"]["RLIMIT_NOFILE"][0]


def test_versions_are_those_of_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = versions("/nowhere")
    assert {"granian", "msgspec"} <= {name.lower() for name in found["packages"]}
    assert found["engines"] == {}

    def unknown() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr("platform.freedesktop_os_release", unknown)
    assert versions("/nowhere")["image"] == ""
