"""LoRA adapters: facts from their files, in a folder and on the hub, and their memory."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.boot.checkpoints.hub import Hub, look_up_adapter
from berth.boot.checkpoints.lora import from_folder, read
from berth.boot.checkpoints.sources import Sources, models_of
from berth.boot.config.model_spec import AdapterSpec
from berth.boot.config.models import parse_models
from berth.boot.config.settings import Settings
from berth.boot.planner.fit.memory import adapter_bytes
from berth.errors import ConfigError
from berth.lora_files import unsupported_reason
from berth.plan import Adapter
from tests.fakes.hub import FakeHub, serving
from tests.fakes.machine import QWEN_8B

SPEC = AdapterSpec(name="support", source="me/support-lora")
SIZES: dict[str, int | None] = {"adapter_config.json": 100, "adapter_model.safetensors": 5000, "README.md": 9}
CONFIG = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"]}
BASE = b'{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}'
TEXT = "chat: {source: Qwen/Qwen3-8B, engines: [vllm], adapters: {support: me/support-lora}}"


def reason(*, sizes: dict[str, int | None] | None = None, **config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(SPEC, SIZES if sizes is None else sizes, json.dumps({**CONFIG, **config}).encode())
    (problem,) = caught.value.problems
    assert problem.value == SPEC.source
    return problem.reason


def test_rank_and_size_are_read() -> None:
    assert read(SPEC, SIZES, json.dumps(CONFIG).encode()) == Adapter(
        name="support", source="me/support-lora", rank=16, weights_bytes=5000
    )


def test_the_largest_rank_of_any_module_counts() -> None:
    patterned = {**CONFIG, "rank_pattern": {"q_proj": 64, "v_proj": 8}}
    assert read(SPEC, SIZES, json.dumps(patterned).encode()).rank == 64


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"peft_type": "IA3"}, "is not a LoRA adapter but 'IA3'"),
        ({"r": 1024}, "has a rank of 1024"),
        ({"r": None}, "has a rank of 0"),
        ({"r": True}, "has a rank of 0"),
        ({"use_dora": True}, "uses DoRA (use_dora), which no engine loads"),
    ],
)
def test_rejects_unsupported_adapters(config: dict[str, Any], expected: str) -> None:
    assert reason(**config) == expected


def test_rejects_model_as_adapter() -> None:
    assert reason(sizes={"config.json": 1, "model.safetensors": 2}) == "has no adapter_config.json"
    assert reason(sizes={"adapter_config.json": 1}) == "has no adapter_model.safetensors"


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b"[" * 100_000, b"\xff"])
def test_rejects_broken_config(document: bytes) -> None:
    with pytest.raises(ConfigError, match="not a JSON object"):
        read(SPEC, SIZES, document)


def test_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "adapter_model.bin").write_bytes(b"x" * 7)
    spec = AdapterSpec(name="support", source=str(tmp_path))

    assert from_folder(spec, tmp_path) == Adapter(name="support", source=str(tmp_path), rank=16, weights_bytes=7)


def test_rejects_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, expected in (("nothing", "does not exist"), ("file", "is a file, not a directory")):
        with pytest.raises(ConfigError, match=expected):
            from_folder(SPEC, tmp_path / name)


def test_inaccessible_path_is_reported() -> None:
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        from_folder(SPEC, Path("/" + "a" * 300))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    files: dict[str, bytes | None] = {"config.json": BASE, "tokenizer.json": b"{}", "model.safetensors": b"x" * 100}
    adapter = {"adapter_config.json": json.dumps(CONFIG).encode(), "adapter_model.safetensors": b"x" * 10}
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with serving(FakeHub(files=files, others={SPEC.source: adapter, "me/model": {"config.json": b"{}"}})) as hub:
        for module in ("constants", "hf_api.constants"):
            monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.mark.usefixtures("server")
def test_hub_adapter_is_looked_up_and_measured(tmp_path: Path) -> None:
    sources = Sources(Settings(models=(), data_dir=str(tmp_path)))
    (spec,) = parse_models(TEXT)

    assert sources.describe(spec).adapters == (
        Adapter(name="support", source="me/support-lora", rank=16, weights_bytes=10),
    )
    config = len(json.dumps(CONFIG))
    assert sources.download_bytes() == len(BASE) + 2 + 100 + config + 10
    assert [model.source for model in models_of(spec)] == ["Qwen/Qwen3-8B", "me/support-lora"]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("source", "expected"), [("me/model", "has no adapter_config.json"), ("me/nothing", "is not on the hub")]
)
def test_hub_errors_name_the_adapters_place(tmp_path: Path, source: str, expected: str) -> None:
    sources = Sources(Settings(models=(), data_dir=str(tmp_path)))
    (spec,) = parse_models(TEXT.replace(SPEC.source, source))

    with pytest.raises(ConfigError) as caught:
        sources.describe(spec)
    assert [problem.variable for problem in caught.value.problems] == ["BERTH_MODELS: chat.adapters.support"]
    assert expected in caught.value.problems[0].reason


def test_unreachable_hub_gives_a_guess_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    where = Hub(cache_dir=str(tmp_path), timeout_s=0.2, endpoint="http://127.0.0.1:9")
    assert look_up_adapter(SPEC, where) == (Adapter(name="support", source="me/support-lora"), None)

    sources = Sources(Settings(models=(), data_dir=str(tmp_path)))
    (spec,) = parse_models(TEXT)
    warning = "the hub cannot be reached: adapters not checked, planned with ranks up to 64: support"
    assert sources.describe(spec).warnings[-1] == warning


def test_offline_missing_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"me/support-lora.* is not in .* and BERTH_OFFLINE forbids"):
        look_up_adapter(SPEC, Hub(cache_dir=str(tmp_path), offline=True))


def test_memory_covers_the_largest_rank_in_every_slot() -> None:
    small, large = (Adapter(name=str(rank), source="x", rank=rank, weights_bytes=1) for rank in (8, 60))
    one = 36 * 23 * 4096 * 64 * 2  # layers, widths, rank rounded up, bytes: 434 MB

    assert adapter_bytes(QWEN_8B) == 0
    assert adapter_bytes(replace(QWEN_8B, adapters=(small, large))) == 2 * one
    assert adapter_bytes(replace(QWEN_8B, adapters=(large,) * 20)) == 8 * one


def test_large_adapter_file_increases_memory() -> None:
    experts = Adapter(name="e", source="x", rank=16, weights_bytes=10**9)

    assert adapter_bytes(replace(QWEN_8B, adapters=(experts,))) == 10**9
    assert adapter_bytes(replace(QWEN_8B, layers=None, adapters=(experts,))) == 2 * 10**9


def test_unsupported_reason_is_empty_for_a_lora_adapter() -> None:
    assert unsupported_reason({"r": 16}) == ""
    assert unsupported_reason({"r": 16, "peft_type": "IA3"}) == "is not a LoRA adapter but 'IA3'"
    assert unsupported_reason({"r": 1024}) == "has a rank of 1024"
