"""compose.yaml and the examples beside it: what they say is a configuration, and they start and end as they should."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.appliance import ROOT, wait_for
from tests.fakes.ports import free_port
from tests.image.container import TINY, TINY_MODEL, image, run_to_end
from tests.image.docker import docker, lines, run_name

pytestmark = [pytest.mark.image, pytest.mark.timeout(240)]

FILES = [ROOT / "compose.yaml", *sorted((ROOT / "etc/compose").glob("*.yaml"))]
SIM = "chat=any@sim:vllm,sim:sglang"
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
EIGHT_GPUS = ("--gpus", "all", "--env", "FAKE_GPUS=8", "--volume", f"{TINY_MODEL}:{TINY}:ro")
# What a file cannot have by itself, and asks for in its head: here both boxes are this one.
ASKED = {
    "two-boxes.yaml": {
        "BERTH_NODES": "127.0.0.1,127.0.0.2",
        "BERTH_NODE": "0",
        "BERTH_NODES_KEY": "a-key-of-both-boxes-that-is-long-enough",
    }
}
OVERRIDE = f"""
services:
  berth:
    image: {{image}}
    environment: {{environment}}
    volumes: ["{TINY_MODEL}:{TINY}:ro"]
    ulimits: !reset {{{{}}}}
volumes: {{{{data: {{{{name: {{name}}}}}}}}}}
"""


def compose(file: Path, *arguments: str, **environ: str) -> str:
    return docker("compose", "--file", str(file), *arguments, environ=environ)


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=named)
def test_compose_accepts_the_file(file: Path) -> None:
    compose(file, "config", "--quiet")


@pytest.mark.parametrize("file", FILES, ids=named)
@pytest.mark.usefixtures("fake_gpus", "vllm")
def test_plans_its_models_on_a_large_machine(file: Path) -> None:
    """With the tiny model in the place of each, for it needs no download."""
    service = json.loads(compose(file, "config", "--format", "json"))["services"]["berth"]
    models = service["environment"]["BERTH_MODELS"]
    if "sim" not in models:
        models = re.sub(r"(source: )\S+", rf"\g<1>{TINY}", models) if "\n" in models else f"chat={TINY}"
    models = re.sub(r", api_key_file: [^,}]+", "", models)
    models = re.sub(r"context: \d+", "context: 4096", models)  # what the tiny model can do
    asked = [f"--env={name}={value}" for name, value in ASKED.get(file.name, {}).items()]
    ended = run_to_end("plan", models=models, options=(*EIGHT_GPUS, *asked))
    assert ended.code == 0, ended.stderr


@contextmanager
def started(file: Path, folder: Path, environment: Mapping[str, str]) -> Iterator[httpx.Client]:
    """`up --wait` with the image under test, and `down --volumes`. Left out is what may be above a test machine's own
    limits.
    """
    override = folder / "override.yaml"
    override.write_text(OVERRIDE.format(image=image(), environment=json.dumps(environment), name=project()))
    files = ("--file", str(override), "--project-name", project(), "--project-directory", str(folder))
    port = str(free_port())
    try:
        compose(file, *files, "up", "--detach", "--no-build", "--wait", "berth", BERTH_PORT=port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        print(compose(file, *files, "logs")[-6000:])  # noqa: T201 - shown where the test fails
        compose(file, *files, "down", "--volumes", "--timeout", "20")


def project() -> str:
    return f"{run_name()}-compose"


def nothing_is_left() -> bool:
    return not any(
        lines(*listing, "--filter", f"name={project()}")
        for listing in (("ps", "--all", "--quiet"), ("volume", "ls", "--quiet"), ("network", "ls", "--quiet"))
    )


def wait_ready(client: httpx.Client) -> None:
    wait_for(lambda: client.get("/ready").status_code == 200, 60, lambda: client.get("/status").text)


@pytest.mark.usefixtures("fake_gpus")
def test_up_waits_for_health_and_down_removes_everything(tmp_path: Path) -> None:
    environment = {"BERTH_MODELS": f"chat={TINY}@sglang", "FAKE_GPUS": "1"}
    with started(ROOT / "compose.yaml", tmp_path, environment) as client:
        assert client.get("/health").status_code == 200
        wait_ready(client)
        assert client.post("/v1/chat/completions", json=HELLO).headers["x-berth-engine"] == "sglang"
    assert nothing_is_left()


def test_up_without_a_gpu(tmp_path: Path) -> None:
    with started(ROOT / "etc/compose/no-gpu.yaml", tmp_path, {}) as client:
        wait_ready(client)
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
    assert nothing_is_left()


@pytest.mark.usefixtures("fake_gpus")
def test_up_with_keys_in_files(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    tmp_path.chmod(0o755)
    for name in ("api_keys", "admin_key", "hf_token", "peer_key"):
        (folder / name).write_text(f"{name}-value")
    with started(ROOT / "etc/compose/secrets.yaml", tmp_path, {"BERTH_MODELS": SIM, "FAKE_GPUS": "1"}) as client:
        assert client.get("/v1/models").status_code == 401
        client.headers["authorization"] = "Bearer api_keys-value"
        assert client.get("/v1/models").status_code == 200
    assert nothing_is_left()
