"""Downloads from a hub on loopback, through the real client library."""

import errno
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from berth.boot.checkpoints import cache, download
from berth.boot.checkpoints.download import Downloaded, RetryDeadline, download_models
from berth.boot.checkpoints.files import HubModel
from berth.boot.checkpoints.hub import Hub, OutOfReachError
from berth.errors import ConfigError, MachineError, UnwritableError
from tests.fakes.hub import COMMIT, FakeHub, Fault, serving, sha256

WEIGHTS = bytes(range(256)) * 1000
MODEL = HubModel(source="Qwen/Qwen3-8B")


@pytest.fixture
def server() -> Iterator[FakeHub]:
    files: dict[str, bytes | None] = {
        "config.json": b'{"model_type": "qwen3"}',
        "tokenizer.json": b"{}",
        "1_Pooling/config.json": b"{}",
        "model-1.safetensors": WEIGHTS,
        "model-2.safetensors": WEIGHTS[::-1],
        "pytorch_model.bin": WEIGHTS,
        "demo.png": b"png",
    }
    with serving(FakeHub(files=files)) as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the machine's own user is logged in as must not matter."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


def reach(server: FakeHub, root: Path, *, token: str = "", offline: bool = False) -> Hub:
    return Hub(cache_dir=str(root / "hub"), endpoint=server.endpoint, token=token, offline=offline)


def quick(reported: list[str] | None = None, limit_s: float = 60) -> RetryDeadline:
    return RetryDeadline(limit_s, (reported if reported is not None else []).append, sleep=lambda _seconds: None)


def fetched(server: FakeHub, root: Path, *models: HubModel) -> tuple[list[Downloaded], str]:
    out = io.StringIO()
    return download_models(models or (MODEL,), reach(server, root), out, quick()), out.getvalue()


def test_downloads_only_files_that_engines_read(server: FakeHub, tmp_path: Path) -> None:
    [done], reported = fetched(server, tmp_path)
    found = cache.cached_snapshot(tmp_path / "hub", MODEL)
    assert found.complete
    assert found.folder == done.folder
    assert sorted(str(path.relative_to(done.folder)) for path in done.folder.rglob("*") if path.is_file()) == [
        "1_Pooling/config.json",
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "tokenizer.json",
    ]
    assert (done.folder / "model-1.safetensors").resolve().name == sha256(WEIGHTS)
    assert (done.files, done.total_bytes, done.new_bytes) == (5, 512_027, 512_027)
    assert reported.startswith("Downloading Qwen/Qwen3-8B:   0%|")
    assert "Downloading Qwen/Qwen3-8B: 100%|##########| 512k/512k [" in reported


def test_second_download_is_empty(server: FakeHub, tmp_path: Path) -> None:
    fetched(server, tmp_path)
    server.paths.clear()
    [done], reported = fetched(server, tmp_path)
    assert (done.new_bytes, reported) == (0, "")
    assert server.paths == ["/api/models/Qwen/Qwen3-8B"]


def test_offline_library_accepts_the_snapshot(server: FakeHub, tmp_path: Path) -> None:
    """The library's own list of the repository's files, which another program may have left, would deny it."""
    trees = cache.repository(tmp_path / "hub", MODEL.source) / "trees"
    trees.mkdir(parents=True)
    entry = {"size": 3, "blob_id": "0"}
    (trees / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": {"demo.png": entry}}))
    [done], _ = fetched(server, tmp_path)
    ask = "import sys; import huggingface_hub as hub; print(hub.snapshot_download(sys.argv[1], cache_dir=sys.argv[2]))"
    path = subprocess.check_output(
        [sys.executable, "-c", ask, MODEL.source, str(tmp_path / "hub")],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        text=True,
    )
    assert Path(path.strip()) == done.folder


def test_revision_is_published_last(server: FakeHub, tmp_path: Path) -> None:
    fetched(server, tmp_path)
    server.commit = "1" * 40
    server.files["model-1.safetensors"] = b"new"
    server.faults = [Fault(path="model-1.safetensors", status=401)]
    with pytest.raises(ConfigError, match="rejected by the hub"):
        fetched(server, tmp_path)
    assert cache.cached_snapshot(tmp_path / "hub", MODEL).folder == _snapshot(tmp_path, COMMIT)
    [done], _ = fetched(server, tmp_path)
    assert cache.cached_snapshot(tmp_path / "hub", MODEL).folder == done.folder == _snapshot(tmp_path, "1" * 40)


def _snapshot(root: Path, commit: str) -> Path:
    return cache.repository(root / "hub", MODEL.source) / "snapshots" / commit


def test_downloads_a_named_revision(server: FakeHub, tmp_path: Path) -> None:
    model = HubModel(source=MODEL.source, revision="v2")
    fetched(server, tmp_path, model)
    assert cache.cached_snapshot(tmp_path / "hub", model).complete
    assert not cache.cached_snapshot(tmp_path / "hub", MODEL).complete
    assert "/api/models/Qwen/Qwen3-8B/revision/v2" in server.paths


def test_network_errors_are_reported_and_retried(server: FakeHub, tmp_path: Path) -> None:
    server.faults = [Fault(path="model-1.safetensors", status=500), Fault(path="model-2.safetensors", cut_after=1000)]
    reported: list[str] = []
    out = io.StringIO()
    download_models([MODEL], reach(server, tmp_path), out, quick(reported))
    assert reported == ["Qwen/Qwen3-8B: the hub cannot be reached (HTTP 500); trying again in 1 s"]
    assert "connection lost" in out.getvalue()
    assert "bytes=1000-" in server.ranges


def test_unreachable_hub_exceeds_the_retry_deadline(tmp_path: Path) -> None:
    reported: list[str] = []
    with pytest.raises(MachineError, match=r"the hub cannot be reached .* check the network, HF_ENDPOINT"):
        download_models(
            [MODEL], reach(FakeHub(endpoint="http://127.0.0.1:9"), tmp_path), io.StringIO(), quick(reported, 3)
        )
    assert [line.rpartition(" in ")[2] for line in reported] == ["1 s", "2 s"]


def test_progress_extends_the_retry_deadline() -> None:
    now = [0.0]
    reported: list[str] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    deadline = RetryDeadline(100, reported.append, clock=lambda: now[0], sleep=sleep)
    error = OutOfReachError("HTTP 503")
    for _ in range(6):
        deadline.back_off("m", error)
    deadline.progress(1)
    deadline.back_off("m", error)
    assert [line.rpartition(" in ")[2] for line in reported] == ["1 s", "2 s", "4 s", "8 s", "16 s", "32 s", "1 s"]
    deadline.progress(1)
    for _ in range(5):
        deadline.back_off("m", error)
    with pytest.raises(MachineError, match="no data came for 63 s"):
        deadline.back_off("m", error)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [((404, "RepoNotFound"), "is not on the hub"), ((403, "GatedRepo"), "is a gated model"), ((401, ""), "HTTP 401")],
)
def test_operator_errors_are_not_retried(server: FakeHub, tmp_path: Path, refusal: tuple[int, str], words: str) -> None:
    server.refusal = refusal
    with pytest.raises(ConfigError, match=words):
        fetched(server, tmp_path)


def test_token_is_sent_to_the_hub_only(server: FakeHub, tmp_path: Path) -> None:
    server.token = "hf_right"
    with pytest.raises(ConfigError, match="gated"):
        download_models([MODEL], reach(server, tmp_path, token="hf_wrong"), io.StringIO(), quick())
    download_models([MODEL], reach(server, tmp_path, token="hf_right"), io.StringIO(), quick())
    assert server.leaked == []


def test_offline_lists_missing_files_without_requests(server: FakeHub, tmp_path: Path) -> None:
    offline = reach(server, tmp_path, offline=True)
    with pytest.raises(ConfigError, match="BERTH_OFFLINE forbids"):
        download_models([MODEL], offline, io.StringIO(), quick())
    assert server.paths == []
    fetched(server, tmp_path)
    server.paths.clear()
    assert download_models([MODEL], offline, io.StringIO(), quick()) == []
    assert server.paths == []


def test_stopped_download_is_not_restarted_by_the_library(server: FakeHub, tmp_path: Path) -> None:
    hub = reach(server, tmp_path)
    planned = download.plan_download(MODEL, hub, quick())
    stop = threading.Event()
    stop.set()
    download.download_file(planned, planned.files[0], hub, stop, print)
    assert server.ranges == [""]
    assert not planned.is_complete(planned.files[0])
    assert planned.present_bytes() > 0


def test_disk_space_is_checked_before_the_download(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("berth.host.disk.free_disk", lambda _folder: 1)
    with pytest.raises(UnwritableError, match="the models take"):
        fetched(server, tmp_path)
    assert server.ranges == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_disk_error_is_not_a_network_error(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_arguments: object, **_more: object) -> None:
        raise OSError(code, "no more", "/data/x")

    monkeypatch.setattr(download, "download_blob", fail)
    with pytest.raises(UnwritableError, match="'/data/x' cannot be written: no more"):
        fetched(server, tmp_path)


def test_unwritable_cache_is_reported(server: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(UnwritableError, match="cannot be written"):
        fetched(server, tmp_path)


def test_truncated_file_is_downloaded_again(server: FakeHub, tmp_path: Path) -> None:
    [done], _ = fetched(server, tmp_path)
    (done.folder / "model-1.safetensors").resolve().write_bytes(b"half")
    assert not cache.cached_snapshot(tmp_path / "hub", MODEL).complete
    fetched(server, tmp_path)
    assert (done.folder / "model-1.safetensors").read_bytes() == WEIGHTS


def test_concurrent_downloads_share_the_work(server: FakeHub, tmp_path: Path) -> None:
    server.faults = [Fault(path=".safetensors", pause_s=0.2, times=2)]
    threads = [threading.Thread(target=fetched, args=(server, tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.ranges) == 2
    assert cache.cached_snapshot(tmp_path / "hub", MODEL).complete


def test_very_large_files_use_the_library(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub does not serve those over 50 GB by plain HTTP; the library has another way."""
    limits = SimpleNamespace(MAX_HTTP_DOWNLOAD_SIZE=1000)
    monkeypatch.setattr(download, "constants", limits)
    monkeypatch.setattr(download, "download_blob", None)
    [done], _ = fetched(server, tmp_path)
    assert (done.folder / "model-1.safetensors").read_bytes() == WEIGHTS
