"""The check of a machine with a GPU, on one with a simulated driver and a simulated engine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etc.tools.gpu_check.__main__ import is_as_expected
from tests.fakes.boot import QWEN_8B
from tests.fakes.nvml.build import environment
from tests.fakes.sim_as_vllm import install_simulated_vllm

ROOT = Path(__file__).resolve().parents[4]
HOLD = """
import os, sys
path = os.path.join(os.environ["FAKE_NVML_FOLDER"], str(os.getpid()))
with open(path + ".half", "w") as file:
    file.write(f"0 {os.getpid()} {int(sys.argv[-1]) >> 20} 200 0")
os.rename(path + ".half", path)
print("holds", flush=True)
sys.stdin.read()
"""


def run(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, dict[str, Any]]:
    output = folder / "found.json"
    command = [sys.executable, "-m", "etc.tools.gpu_check", "--output", str(output), *arguments]
    environ = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    found = json.loads(output.read_text()) if output.exists() else {}
    return done.returncode, done.stdout + done.stderr, found


@pytest.fixture
def driver(tmp_path: Path) -> dict[str, str]:
    if shutil.which("cc") is None:
        pytest.skip("the fake NVML library is made with cc")
    held = tmp_path / "held"
    held.mkdir()
    return environment(tmp_path, total_mib=24 * 1024, held_in=held)


def holder(folder: Path) -> list[str]:
    script = folder / "hold.py"
    script.write_text(HOLD)
    return ["--holder", f"{sys.executable} {script}"]


@pytest.mark.slow
def test_measures_readings_release_sleep_and_residue(tmp_path: Path, driver: dict[str, str]) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(QWEN_8B))
    with (source / "model.safetensors").open("wb") as file:
        file.truncate(15 * 2**30)
    install_simulated_vllm(tmp_path / "engines")
    driver |= {"BERTH_ENGINE_HOME": str(tmp_path / "engines"), "HF_HUB_OFFLINE": "1"}

    code, text, found = run(tmp_path, *holder(tmp_path), "--model", str(source), **driver)

    assert (code, "not as expected" in text) == (0, False), text
    parts = found["parts"]
    assert parts["holders"]["counted_mib"] == 1024
    assert parts["release after SIGKILL"]["seconds"] >= 0.2
    assert len(parts["release after SIGTERM"]["curve_ms_mib"]) > 1
    assert parts["proof"]["started_while_held"] == 0
    vllm = parts["vllm"]
    assert (vllm["sleep"], vllm["wake"], vllm["residue_mib"]) == ("ok", "ok", 1024)
    assert (vllm["sleep_light"], vllm["wake_light"], vllm["residue_light_mib"]) == ("ok", "ok", 1024)
    assert vllm["footprint_mib"] > 15 * 1024
    assert "skipped" in parts["sglang"]
    assert found["measured"]["version"] == 1


@pytest.mark.slow
def test_a_holder_that_fails_is_not_as_expected(tmp_path: Path, driver: dict[str, str]) -> None:
    code, text, found = run(tmp_path, "--holder", "false", **driver)
    assert code == 1
    assert "failed" in found["parts"]["holders"]
    assert "not as expected: holders, release after SIGTERM, release after SIGKILL, proof" in text


def test_says_plainly_that_there_is_no_gpu(tmp_path: Path) -> None:
    code, text, found = run(tmp_path, LD_LIBRARY_PATH="")
    assert (code, found) == (1, {})
    assert text.startswith("no NVIDIA GPU here, nothing was checked: ")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"skipped": "not installed"}, True),
        ({"released": True, "seconds": 1}, True),
        ({"released": False}, False),
        ({"ok": False}, False),
        ({"sleep": "it has no sleep mode"}, True),
        ({"sleep": "ok", "wake": "/wake_up returned 500"}, False),
        ({"failed": "OSError"}, False),
    ],
)
def test_what_only_measures_is_as_expected(part: dict[str, Any], expected: bool) -> None:
    assert is_as_expected(part) is expected
