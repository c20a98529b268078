"""The driver and its scripts, as far as they can be tested without a Docker Engine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.appliance import ROOT
from tests.image import images, run

BIN = Path(sys.executable).parent


@pytest.fixture
def poor_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where no Docker Engine answers, and that can have no private one."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in {"docker": "exit 1", "uname": "echo riscv64", "id": "echo 0"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("BERTH_IMAGE_TEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BERTH_SKIP_IMAGE_TEST", raising=False)
    return tmp_path


@pytest.mark.usefixtures("poor_machine")
def test_unsuitable_machine_fails_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([]) == 1
    told = capsys.readouterr().out
    for words in ("FAILED", "riscv64", "BERTH_SKIP_IMAGE_TEST=1"):
        assert words in told


@pytest.mark.usefixtures("poor_machine")
def test_reports_a_requested_skip(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_SKIP_IMAGE_TEST", "1")
    assert run.main([]) == 0
    assert "SKIPPED" in capsys.readouterr().out


def test_rejects_concurrent_runs(poor_machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run.locked(poor_machine / "cache"):
        assert run.main([]) == 1
    assert "another run" in capsys.readouterr().out


def test_passes_unknown_options_to_pytest() -> None:
    options = run.parse(["--keep", "-k", "boot"], {"BERTH_IMAGE_TEST_CACHE": "/somewhere"})
    assert (options.keep, options.pytest, options.cache) == (True, ("-k", "boot"), Path("/somewhere"))


def test_base_image_is_the_dockerfiles() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert images.default_of("BASE_IMAGE", text) == "nvidia/cuda"
    assert images.default_of("BASE_TAG", text).endswith("ubuntu24.04")


def test_scripts_pass_their_linters() -> None:
    folder = ROOT / "tests/image"
    scripts = [*folder.rglob("*.sh")]
    assert len(scripts) == 3
    for command in ([BIN / "shellcheck", *scripts], [BIN / "hadolint", folder / "fake_engines/Dockerfile"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")
