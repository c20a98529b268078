"""`berth fetch` as a program, with a hub on loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.boot.checkpoints import cache, fetch
from berth.boot.checkpoints.files import HubModel
from berth.boot.config.model_spec import ModelSpec
from berth.errors import ConfigError
from tests.fakes.hub import FakeHub, serving

CONFIG = b'{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}'
FILES = {"config.json": CONFIG, "tokenizer.json": b"{}", "model.safetensors": b"x" * 2_000_000}
RUN = """
import os, sys
from berth.boot.checkpoints.fetch import fetch
from berth.errors import BerthError
try:
    sys.exit(fetch(os.environ, sys.argv[1:]))
except BerthError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
Environ = dict[str, str]


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serving(FakeHub(files=dict(FILES), others={"me/draft": FILES, "me/more": FILES})) as hub:
        yield hub


@pytest.fixture
def environ(server: FakeHub, tmp_path: Path) -> Environ:
    kept = {name: value for name, value in os.environ.items() if name[:6] not in ("BERTH_", "HF_TOK")}
    return kept | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path), "BERTH_DATA": str(tmp_path / "data")}


def run(environ: Environ, models: str, *names: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = environ | {"BERTH_MODELS": models} | more
    return subprocess.run([sys.executable, "-c", RUN, *names], env=env, capture_output=True, text=True, check=False)


def is_complete(environ: Environ, source: str) -> bool:
    return cache.cached_snapshot(cache.hub_cache(environ["BERTH_DATA"]), HubModel(source=source)).complete


BOTH = """
chat: {source: Qwen/Qwen3-8B, engines: [vllm], extra_sources: [me/draft]}
more: {source: me/more}
"""


def test_fetches_all_models_of_berth_models(environ: Environ) -> None:
    done = run(environ, BOTH)
    assert done.returncode == 0
    assert all(is_complete(environ, source) for source in ("Qwen/Qwen3-8B", "me/draft", "me/more"))
    first, second, third = done.stdout.splitlines()
    assert first.startswith("Qwen/Qwen3-8B: 3 files, 2.00MB in ")
    assert "2.00MB downloaded in " in first
    assert (second[:8], third[:7]) == ("me/draft", "me/more")
    assert "Downloading Qwen/Qwen3-8B: 100%|##########| 2.00M/2.00M [" in done.stderr


def test_fetches_a_named_model_and_again_without_the_hub(environ: Environ) -> None:
    assert run(environ, BOTH, "more").returncode == 0
    assert is_complete(environ, "me/more")
    assert not is_complete(environ, "Qwen/Qwen3-8B")
    assert "; already complete" in run(environ, BOTH, "me/more").stdout
    again = run(environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}, BOTH, "more")
    assert again.returncode == 0
    assert "complete in " in again.stdout
    assert "the hub cannot be reached" in again.stdout


def test_token_is_used_and_masked(environ: Environ, server: FakeHub) -> None:
    server.token = "hf_right"
    wrong = run(environ, "Qwen/Qwen3-8B me/more", HF_TOKEN="hf_wrong")
    assert wrong.returncode == 78
    assert wrong.stderr.count("is a gated model") == 2
    assert "hf_wrong" not in wrong.stderr + wrong.stdout
    assert run(environ, "Qwen/Qwen3-8B", HF_TOKEN="hf_right").returncode == 0


def test_unsupported_model_is_not_downloaded(environ: Environ, server: FakeHub) -> None:
    server.files = {"config.json": CONFIG, "model.gguf": b"x"}
    done = run(environ, "Qwen/Qwen3-8B")
    assert done.returncode == 78
    assert "GGUF" in done.stderr


def local(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "model.safetensors").write_bytes(b"x")
    return folder


def settings(tmp_path: Path, models: str) -> Environ:
    return {"BERTH_MODELS": models, "BERTH_DATA": str(tmp_path)}


def test_local_and_attached_models_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = local(tmp_path / "model")
    models = f"a={folder}@vllm b=http://127.0.0.1:9/v1 c=x@sim"
    assert fetch.fetch(settings(tmp_path, models), []) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"a: {folder} is a local model, 0 MiB of weights",
        "b: nothing to download, its engines are attached or simulated",
        "c: nothing to download, its engines are attached or simulated",
    ]


def test_reports_every_incomplete_local_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch.fetch(settings(tmp_path, "a=/nowhere@vllm b=/neither@vllm"), [])
    assert [problem.value for problem in caught.value.problems] == ["/nowhere", "/neither"]


def test_unknown_name_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.fetch(settings(tmp_path, "a=x@sim"), ["b"]) == 2
    assert capsys.readouterr().err == "berth fetch: unknown model b; BERTH_MODELS has: a\n"


def test_rejects_fetch_when_offline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="BERTH_OFFLINE='1': it forbids downloads"):
        fetch.fetch(settings(tmp_path, "org/chat") | {"BERTH_OFFLINE": "1"}, [])


def test_checks_local_models_without_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch.check_local_models([ModelSpec(name="chat", source=str(local(tmp_path / "model")))])

    assert capsys.readouterr().out.startswith("chat: ")
    with pytest.raises(ConfigError, match="does not exist"):
        fetch.check_local_models([ModelSpec(name="chat", source=str(tmp_path / "none"))])
