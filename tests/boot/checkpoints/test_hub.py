"""Look-ups on a hub on loopback, through the real client library."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.boot.checkpoints.cache import cached_snapshot
from berth.boot.checkpoints.files import HubModel
from berth.boot.checkpoints.hub import Hub, OutOfReachError, cached_info, download_bytes, listing, look_up
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.settings import Settings
from berth.errors import ConfigError
from berth.plan import Task
from tests.fakes.hub import FakeHub, git_blob, serving

CONFIG = json.dumps({"model_type": "qwen3", "num_hidden_layers": 36, "num_attention_heads": 32, "hidden_size": 4096})
MODEL = "Qwen/Qwen3-8B"


def total_model() -> FakeHub:
    return FakeHub(
        model=MODEL,
        files={
            "config.json": CONFIG.encode(),
            "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
            "model-1.safetensors": None,
            "model-2.safetensors": None,
            "README.md": b"hello",
        },
        sizes={"model-1.safetensors": 9_000_000_000, "model-2.safetensors": 7_000_000_000},
    )


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serving(total_model()) as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the machine's own user is logged in as must not matter."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


def cached(cache: Path, *, config: str = CONFIG, weights: bool = True) -> Path:
    """A snapshot as the hub's library stores it."""
    snapshot = cache / "models--Qwen--Qwen3-8B" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    refs = cache / "models--Qwen--Qwen3-8B" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text(config)
    (snapshot / "tokenizer.json").write_text("{}")
    if weights:
        (snapshot / "model.safetensors").write_bytes(b"x" * 70)
    return snapshot


def hub(server: FakeHub, cache: Path, *, offline: bool = False, token: str = "") -> Hub:
    return Hub(cache_dir=str(cache), offline=offline, token=token, timeout_s=2, endpoint=server.endpoint)


def describe(source: str, revision: str | None, where: Hub) -> ModelInfo:
    return look_up(HubModel(source=source, revision=revision), where).info


def test_look_up_reads_small_files_and_stores_nothing(server: FakeHub, tmp_path: Path) -> None:
    info = describe(MODEL, None, hub(server, tmp_path))

    assert (info.layers, info.head_dim, info.weights_bytes, info.local) == (36, 128, 16_000_000_000, False)
    assert (info.chat_template, info.task, info.warnings) == ("{{ messages }}", Task.GENERATE, ())
    assert not any(path.endswith((".safetensors", ".md")) for path in server.paths)
    assert list(tmp_path.iterdir()) == []


def test_look_up_uses_the_revision(server: FakeHub, tmp_path: Path) -> None:
    describe(MODEL, "v2", hub(server, tmp_path))

    assert all("/v2" in path for path in server.paths)


def test_cached_model_needs_no_network(server: FakeHub, tmp_path: Path) -> None:
    cached(tmp_path)

    info = describe(MODEL, None, hub(server, tmp_path))

    assert (info.layers, info.weights_bytes, info.local, server.paths) == (36, 70, True, [])


@pytest.mark.parametrize("config", [CONFIG, "{"])
def test_incomplete_cache_is_completed_from_the_hub(server: FakeHub, tmp_path: Path, config: str) -> None:
    cached(tmp_path, weights=False, config=config)

    assert describe(MODEL, None, hub(server, tmp_path)).weights_bytes == 16_000_000_000


def test_incomplete_cache_without_hub_is_a_warning(tmp_path: Path) -> None:
    cached(tmp_path, weights=False)

    info = describe(MODEL, None, hub(FakeHub(endpoint="http://127.0.0.1:9"), tmp_path))

    assert (info.layers, info.weights_bytes) == (36, None)
    assert "not all in the cache" in info.warnings[0]


def test_no_network_is_a_warning_with_unchecked_properties(tmp_path: Path) -> None:
    info = describe(MODEL, None, hub(FakeHub(endpoint="http://127.0.0.1:9"), tmp_path))

    assert (info.source, info.layers, info.weights_bytes) == (MODEL, None, None)
    assert "cannot be reached" in info.warnings[0]
    assert "its size, task, context and access were not checked" in info.warnings[0]


@pytest.mark.parametrize("listing", [b"<html>sign in</html>", b"[]", b'{"id": 1, "siblings": [{}]}'])
def test_invalid_hub_response_is_a_warning(server: FakeHub, tmp_path: Path, listing: bytes) -> None:
    server.listing = listing

    assert "cannot be reached" in describe(MODEL, None, hub(server, tmp_path)).warnings[0]


def test_failing_hub_is_a_warning(server: FakeHub, tmp_path: Path) -> None:
    server.refusal = (500, "")

    assert "HTTP 500" in describe(MODEL, None, hub(server, tmp_path)).warnings[0]


@pytest.mark.parametrize(
    ("refusal", "reason", "advice"),
    [
        ((404, "RepoNotFound"), "is not on the hub, or it is private", "HF_TOKEN"),
        ((401, ""), "was rejected by the hub \\(HTTP 401\\)", "HF_TOKEN"),
        ((403, "GatedRepo"), "is a gated model", "HF_TOKEN"),
        ((404, "RevisionNotFound"), "has no revision 'v9'", "branch, tag or commit"),
        ((403, ""), "was rejected by the hub \\(HTTP 403\\)", "HF_TOKEN"),
    ],
)
def test_operator_errors_are_problems(
    server: FakeHub, tmp_path: Path, refusal: tuple[int, str], reason: str, advice: str
) -> None:
    server.refusal = refusal

    with pytest.raises(ConfigError, match=reason) as caught:
        describe(MODEL, "v9", hub(server, tmp_path))
    assert advice in caught.value.problems[0].allowed
    assert caught.value.problems[0].value == MODEL


def test_a_gated_model_opens_with_its_token(server: FakeHub, tmp_path: Path) -> None:
    server.token = "hf_right"

    assert describe(MODEL, None, hub(server, tmp_path, token="hf_right")).layers == 36
    with pytest.raises(ConfigError, match="gated") as caught:
        describe(MODEL, None, hub(server, tmp_path, token="hf_wrong"))
    assert "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model-Q4.gguf": None, "config.json": b"{}"}, "GGUF"),
        ({"model.safetensors": None}, "has no config.json"),
        ({"model.safetensors": None, "config.json": b"<html>"}, "not a JSON object"),
        ({"README.md": b""}, "no weights"),
    ],
)
def test_unsupported_repository_is_a_problem(
    server: FakeHub, tmp_path: Path, files: dict[str, bytes | None], reason: str
) -> None:
    server.files = files

    with pytest.raises(ConfigError, match=reason):
        describe(MODEL, None, hub(server, tmp_path))


@pytest.mark.parametrize("source", ["a/b/c", "--x--", "a b"])
def test_invalid_id_is_a_problem(server: FakeHub, tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid id of a model"):
        describe(source, None, hub(server, tmp_path))


def test_offline_requires_a_complete_snapshot(server: FakeHub, tmp_path: Path) -> None:
    offline = hub(server, tmp_path, offline=True)
    with pytest.raises(ConfigError, match=rf"is not in {tmp_path}, and BERTH_OFFLINE forbids") as caught:
        describe(MODEL, None, offline)
    assert "berth fetch" in caught.value.problems[0].allowed
    assert "berth import < berth.tar" in caught.value.problems[0].example

    with pytest.raises(ConfigError, match=r"is not in .* at revision 'v2', and"):
        describe(MODEL, "v2", offline)

    cached(tmp_path)
    assert describe(MODEL, None, offline).local
    assert server.paths == []


def test_offline_names_missing_files_and_folder(server: FakeHub, tmp_path: Path) -> None:
    folder = cached(tmp_path)
    index = {"weight_map": {str(number): f"model-{number}.safetensors" for number in range(3)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer.json").unlink()

    with pytest.raises(
        ConfigError, match=r"lacks a tokenizer \(.*\), model-0.safetensors, model-1.*, model-2"
    ) as caught:
        describe(MODEL, None, hub(server, tmp_path, offline=True))
    assert str(folder) in str(caught.value)


def test_offline_damaged_model_is_reported(server: FakeHub, tmp_path: Path) -> None:
    folder = cached(tmp_path, config="[]")
    with pytest.raises(ConfigError, match="not a JSON object"):
        describe(MODEL, None, hub(server, tmp_path, offline=True))
    (folder / "tokenizer_config.json").symlink_to("/proc/self/mem")
    (folder / "config.json").write_text(CONFIG)
    with pytest.raises(ConfigError, match=f"cannot be read in {folder}"):
        describe(MODEL, None, hub(server, tmp_path, offline=True))


def test_missing_bytes_exclude_present_ones(server: FakeHub, tmp_path: Path) -> None:
    server.files["pytorch_model.bin"] = None
    server.sizes["pytorch_model.bin"] = 50_000_000_000
    small = len(CONFIG) + len(server.files["tokenizer_config.json"] or b"") + len(b"hello")
    total = 16_000_000_000 + small
    model = HubModel(source=MODEL)
    assert look_up(model, hub(server, tmp_path)).missing_bytes == total
    part = tmp_path / "models--Qwen--Qwen3-8B" / "blobs" / f"{git_blob(b'hello')}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"hel")
    assert look_up(model, hub(server, tmp_path)).missing_bytes == total - 3
    assert look_up(model, hub(FakeHub(endpoint="http://127.0.0.1:9"), tmp_path)).missing_bytes is None
    cached(tmp_path)
    assert look_up(model, hub(server, tmp_path)).missing_bytes == 0


def test_extra_source_is_measured_and_may_be_any_repository(server: FakeHub, tmp_path: Path) -> None:
    server.others["me/adapter"] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"12345"}
    adapter = HubModel(source="me/adapter")
    assert download_bytes(adapter, hub(server, tmp_path)) == 7
    assert download_bytes(adapter, hub(FakeHub(endpoint="http://127.0.0.1:9"), tmp_path)) is None
    with pytest.raises(ConfigError, match="BERTH_OFFLINE forbids"):
        download_bytes(adapter, hub(server, tmp_path, offline=True))
    cached(tmp_path)
    assert download_bytes(HubModel(source=MODEL), hub(server, tmp_path, offline=True)) == 0


def test_listing_without_commit_is_rejected(server: FakeHub, tmp_path: Path) -> None:
    server.listing = json.dumps({"id": MODEL, "siblings": []}).encode()
    with pytest.raises(OutOfReachError, match="names no commit"):
        listing(HubModel(source=MODEL), hub(server, tmp_path))


def test_hf_hub_offline_is_a_problem(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE forbids to query the hub"):
        describe(MODEL, None, hub(server, tmp_path))


def test_hub_options_come_from_settings() -> None:
    settings = Settings(models=(), data_dir="/d", offline=True, hf_token="hf_x")
    assert Hub.of(settings) == Hub(cache_dir="/d/huggingface/hub", offline=True, token="hf_x")


def test_unreadable_cache_is_ignored(server: FakeHub, tmp_path: Path) -> None:
    repository = tmp_path / "models--Qwen--Qwen3-8B"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_bytes(b"\xff\xfe")

    assert describe(MODEL, None, hub(server, tmp_path)).weights_bytes == 16_000_000_000


@pytest.mark.parametrize("weights", [True, False])
def test_cached_info_is_local_only_with_all_files(tmp_path: Path, weights: bool) -> None:
    cached(tmp_path, weights=weights)

    info = cached_info(MODEL, cached_snapshot(tmp_path, HubModel(source=MODEL)))

    assert info is not None
    assert (info.model_type, info.local) == ("qwen3", weights)


def test_cached_info_of_an_unknown_model_is_none(tmp_path: Path) -> None:
    assert cached_info(MODEL, cached_snapshot(tmp_path, HubModel(source=MODEL))) is None
