"""The container's files: the linters' verdict, and that what they say about Berth is true."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from berth.boot import reference
from berth.boot.settings import load
from berth.boot.variables import VARIABLES
from berth.cli import COMMANDS
from berth.plan import EngineName, Standby

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PINS = {"vllm": "vllm==0.33.0", "sglang": "sglang==0.5.23", "trtllm": "tensorrt-llm==1.2.1"}
ENGINES = [EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM]


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_dockerfile_passes_its_linter() -> None:
    done = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_scripts_pass_their_linter() -> None:
    scripts = [ROOT / "entrypoint.sh", *sorted((ROOT / "etc").rglob("*.sh"))]
    done = subprocess.run([BIN / "shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert all(os.access(script, os.X_OK) for script in scripts)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with a `berth` and a `bash` that say how they were called."""
    for name in ("berth", "bash"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$$" "$@"\nexit 78\n', encoding="ascii")
        (tmp_path / name).chmod(0o755)
    return f"{tmp_path}:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], "berth"),
        (["--version"], "berth --version"),
        (["-h"], "berth -h"),
        *(([command, "--json"], f"berth {command} --json") for command in [*COMMANDS, "sim"]),
        (["berth", "plan"], "berth plan"),
        (["bash", "-c", "a b"], "bash -c a b"),
    ],
)
def test_the_entrypoint_becomes_what_was_asked_for(path: str, arguments: list[str], called: str) -> None:
    command = [str(ROOT / "entrypoint.sh"), *arguments]
    with subprocess.Popen(command, env={"PATH": path}, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate()
    name, pid, *rest = output.split()
    assert " ".join([name, *rest]) == called
    assert int(pid) == process.pid
    assert process.returncode == 78


def test_the_entrypoint_says_when_there_is_no_such_program(path: str) -> None:
    done = subprocess.run([ROOT / "entrypoint.sh", "no-such"], env={"PATH": path}, capture_output=True, check=False)
    assert done.returncode == 127
    assert b"no-such" in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_pinned(engine: EngineName) -> None:
    lines = [line for line in text(f"etc/engines/{engine}.txt").splitlines() if not line.startswith(("#", "--"))]
    assert lines == [PINS[engine]]


def test_the_dockerfile_knows_berths_engines_and_no_others() -> None:
    found = re.search(r'^ARG ENGINES="(.*)"$', text("Dockerfile"), re.MULTILINE)
    assert found is not None
    assert found[1].split() == [str(engine) for engine in ENGINES]
    assert {file.stem for file in (ROOT / "etc/engines").glob("*.txt")} == {str(engine) for engine in ENGINES}


def test_the_dockerfile_copies_only_what_is_there_and_let_in() -> None:
    wanted = [
        source
        for line in re.findall(r"^COPY (?:--\S+ )*(.*)$", text("Dockerfile"), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    let_in = [line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")]
    for source in wanted:
        assert (ROOT / source).exists()
        assert any(source == entry or source.startswith(f"{entry}/") for entry in let_in)


def test_the_images_defaults_are_berths() -> None:
    settings = load({"BERTH_MODELS": "m=x@sim"})
    dockerfile = text("Dockerfile")
    assert f"VOLUME {settings.data_dir}\n" in dockerfile
    assert f"EXPOSE {settings.port}\n" in dockerfile
    assert f"--mode 1777 {settings.data_dir} {settings.run_dir}\n" in dockerfile
    assert f"ENGINE_HOME:-{settings.engine_home}" in text("etc/engines/install.sh")
    assert f"BERTH_PORT:-{settings.port}" in dockerfile


def install(tmp_path: Path, *engines: str) -> "subprocess.CompletedProcess[str]":
    """install.sh in a copy of its folders, with a uv that only says how it was called."""
    folder = tmp_path / "etc/engines"
    folder.mkdir(parents=True)
    (tmp_path / "etc/setup").mkdir()
    for file in (ROOT / "etc/engines").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    uv = tmp_path / "etc/setup/uv.sh"
    uv.write_text('#!/bin/sh\necho uv "$@"\n', encoding="ascii")
    uv.chmod(0o755)
    environ = {"PATH": "/usr/bin:/bin", "ENGINE_HOME": str(tmp_path / "home")}
    command = ["bash", str(folder / "install.sh"), *engines]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_each_engine_gets_an_environment_of_its_own(tmp_path: Path) -> None:
    done = install(tmp_path, "sglang", "vllm")
    home, folder = tmp_path / "home", tmp_path / "etc/engines"
    calls = [line for line in done.stdout.splitlines() if line.startswith("uv ")]
    assert calls == [
        call
        for engine in ("sglang", "vllm")
        for call in (
            f"uv venv --quiet --clear {home}/{engine}",
            f"uv pip install --python {home}/{engine}/bin/python --requirement {folder}/{engine}.txt",
        )
    ]
    assert done.returncode == 0


def test_no_engine_is_fine_and_an_unknown_one_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    assert install(tmp_path / "none").returncode == 0
    done = install(tmp_path / "some", "vllm", "vlm")
    assert done.returncode == 64
    assert done.stdout == ""
    assert "'vlm' is no engine. There are: sglang trtllm vllm" in done.stderr


def compose() -> Any:
    return yaml.safe_load(text("compose.yaml"))


def interpolated(environment: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """As compose does with ${NAME:-default}."""
    pattern = re.compile(r"\$\{(\w+):-([^}]*)\}")
    return {name: pattern.sub(lambda m: environ.get(m[1]) or m[2], value) for name, value in environment.items()}


def test_compose_starts_one_model_without_any_variable() -> None:
    service = compose()["services"]["berth"]
    settings = load(interpolated(service["environment"], {}))
    assert [model.source for model in settings.models] == ["Qwen/Qwen3-0.6B"]
    assert settings.api_keys == ()
    assert "BERTH_PORT" not in service["environment"]
    assert service["ports"] == [f"${{BERTH_PORT:-8000}}:{settings.port}"]
    assert f"http://127.0.0.1:{settings.port}/health" in service["healthcheck"]["test"]
    assert service["volumes"] == [f"data:{settings.data_dir}"]


def test_compose_passes_on_what_is_set() -> None:
    environ = {"BERTH_MODELS": "a=b/c@vllm", "BERTH_API_KEYS": "key-of-alice", "HF_TOKEN": "hf_x"}
    settings = load(interpolated(compose()["services"]["berth"]["environment"], environ))
    assert (settings.models[0].name, settings.api_keys, settings.hf_token) == ("a", ("key-of-alice",), "hf_x")


def test_compose_waits_longer_than_berth_needs_to_stop() -> None:
    grace = compose()["services"]["berth"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > load({"BERTH_MODELS": "m=x@sim"}).drain_timeout_s + 5


def test_the_examples_in_compose_are_configurations() -> None:
    block = re.search(r"^ +#   (BERTH_MODELS: \|\n(?: +#     .*\n)+)", text("compose.yaml"), re.MULTILINE)
    assert block is not None
    example = yaml.safe_load(re.sub(r"^ +#   ", "", block[1], flags=re.MULTILINE))
    models = {model.name: model for model in load(example).models}
    assert set(models) == {"chat", "large", "pair", "embed", "peer"}
    assert models["chat"].aliases == ("gpt-4o-mini",)
    assert models["pair"].standby is Standby.HOT
    assert models["peer"].engines[0].engine is EngineName.REMOTE


def test_every_variable_in_the_containers_files_is_one_of_berths() -> None:
    known = {var.name for var in VARIABLES} | {var.file_name for var in VARIABLES if var.from_file}
    files = ["Dockerfile", "compose.yaml", "entrypoint.sh", "etc/env.example"]
    for file in files:
        assert set(re.findall(r"\b(?:BERTH_[A-Z_]+|HF_TOKEN\w*)", text(file))) <= known, file


def test_the_example_of_an_env_file_is_up_to_date() -> None:
    assert text("etc/env.example") == reference.env_example()
