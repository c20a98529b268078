"""The report of `berth fetch` on each hub model; the program itself is tested in test_fetch."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.boot.checkpoints import fetch
from berth.boot.checkpoints.hub import Hub
from berth.boot.config.models import parse_models
from berth.boot.config.settings import Settings
from berth.errors import ConfigError
from tests.fakes.hub import FakeHub, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    files: dict[str, bytes | None] = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"x"}
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with serving(FakeHub(files=files)) as hub:

        def of(settings: Settings) -> Hub:
            return Hub(cache_dir=settings.data_dir, endpoint=hub.endpoint)

        monkeypatch.setattr(Hub, "of", of)
        yield hub


def rows(root: Path) -> list[str]:
    specs = parse_models("Qwen/Qwen3-8B@vllm")
    return list(fetch.fetch_models(specs, Settings(models=specs, data_dir=str(root))))


def test_reports_download_then_nothing_new_then_no_hub(server: FakeHub, tmp_path: Path) -> None:
    [row] = rows(tmp_path)
    assert "3 files, 5.00B in " in row
    assert "5.00B downloaded in " in row
    assert rows(tmp_path)[0].endswith("; already complete")
    server.refusal = (503, "")
    assert "the hub cannot be reached (HTTP 503)" in rows(tmp_path)[0]


def test_hub_errors_are_reported_before_any_download(server: FakeHub, tmp_path: Path) -> None:
    server.refusal = (404, "RepoNotFound")
    with pytest.raises(ConfigError, match="is not on the hub"):
        rows(tmp_path)


@pytest.mark.usefixtures("server")
def test_progress_goes_to_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    rows(tmp_path)
    assert out.getvalue().splitlines()[-1].startswith("Downloading Qwen/Qwen3-8B: 100%|")
