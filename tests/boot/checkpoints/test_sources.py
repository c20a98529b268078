"""Everything that a model's engines read, looked up at boot."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.boot.checkpoints.files import HubModel
from berth.boot.checkpoints.sources import Sources, models_of
from berth.boot.config.models import ModelSpec, parse_models
from berth.boot.config.settings import Settings
from berth.errors import ConfigError
from tests.fakes.hub import FakeHub, serving

CONFIG = b'{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    files: dict[str, bytes | None] = {"config.json": CONFIG, "tokenizer.json": b"{}", "model.safetensors": b"x" * 100}
    drafts = {"me/draft": {"config.json": b"{}", "model.safetensors": b"x" * 10}}
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with serving(FakeHub(files=files, others=drafts)) as hub:
        for module in ("constants", "hf_api.constants"):
            monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def spec(text: str) -> ModelSpec:
    [found] = parse_models(text)
    return found


DRAFTED = "chat: {source: Qwen/Qwen3-8B, engines: [vllm], extra_sources: [me/draft]}"


@pytest.mark.usefixtures("server")
def test_measures_model_and_extra_sources(tmp_path: Path) -> None:
    sources = Sources(Settings(models=(), data_dir=str(tmp_path)))
    assert sources.describe(spec(DRAFTED)).layers == 2
    assert sources.download_bytes() == len(CONFIG) + 2 + 100 + 2 + 10
    sources.describe(spec(DRAFTED))
    assert sources.download_bytes() == len(CONFIG) + 2 + 100 + 2 + 10


@pytest.mark.usefixtures("server")
def test_offline_reports_all_missing_sources_at_once(tmp_path: Path) -> None:
    sources = Sources(Settings(models=(), data_dir=str(tmp_path), offline=True))
    with pytest.raises(ConfigError) as caught:
        sources.describe(spec(DRAFTED))
    variables = [(problem.variable, problem.value) for problem in caught.value.problems]
    assert variables == [("BERTH_MODELS", "Qwen/Qwen3-8B"), ("BERTH_MODELS: chat.extra_sources[0]", "me/draft")]


def test_local_model_sends_no_request(server: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "model.safetensors").write_bytes(b"x")
    sources = Sources(Settings(models=(), data_dir=str(tmp_path)))
    assert sources.describe(spec(f"chat={folder}@vllm")).local
    assert (sources.download_bytes(), server.paths) == (0, [])


def test_unreachable_hub_counts_zero_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    sources = Sources(Settings(models=(), data_dir=str(tmp_path)))
    sources.describe(spec(DRAFTED))
    assert sources.download_bytes() == 0


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("org/chat@sim", ()),
        ("chat=http://127.0.0.1:9/v1", ()),
        ("/data/chat@vllm", ()),
        ("org/chat", (HubModel(source="org/chat"),)),
        (
            "chat: {source: org/chat, revision: v2, vllm: {args: [--load-format, mistral]}}",
            (HubModel(source="org/chat", revision="v2", mistral=True),),
        ),
    ],
)
def test_models_to_download(text: str, models: tuple[HubModel, ...]) -> None:
    assert models_of(spec(text)) == models


CATALOGUE = """
models:
- id: Qwen/Qwen3-8B
  context: 777
  parsers: {vllm: {tool: mistral}}
  variants: [{id: Qwen/Qwen3-8B, precision: bf16, weights_bytes: 4000}]
"""


def with_own_catalogue(tmp_path: Path, **fields: Any) -> Sources:
    (tmp_path / "own.yaml").write_text(CATALOGUE)
    return Sources(Settings(models=(), data_dir=str(tmp_path), catalogue=str(tmp_path / "own.yaml"), **fields))


@pytest.mark.usefixtures("server")
def test_the_catalogue_adds_what_the_checkpoint_does_not_say(tmp_path: Path) -> None:
    info = with_own_catalogue(tmp_path).describe(spec("Qwen/Qwen3-8B"))
    assert (info.max_position, info.weights_bytes) == (777, 100)
    assert [(one.kind, one.name) for one in info.facts.known][:1] == [("tool", "mistral")]
    assert info.commit == "0" * 40


@pytest.mark.parametrize("base", ["Qwen/Qwen3-8B", ["who/knows", "qwen/qwen3-8b"]])
def test_a_finetuned_model_is_found_by_its_base(server: FakeHub, tmp_path: Path, base: str | list[str]) -> None:
    server.model, server.base_model = "me/finetuned", base
    info = with_own_catalogue(tmp_path).describe(spec("me/finetuned"))
    assert info.catalogue is not None
    assert info.facts.known[
        0
    ].origin == f"catalogue by the base model {base if isinstance(base, str) else base[1]}: " + str(
        tmp_path / "own.yaml"
    )


def test_without_the_hub_the_size_is_the_catalogues(server: FakeHub, tmp_path: Path) -> None:
    server.refusal = (500, "")
    info = with_own_catalogue(tmp_path).describe(spec("Qwen/Qwen3-8B"))
    assert (info.max_position, info.weights_bytes) == (777, 4000)
    assert "the size of its weights is from the catalogue (0 MiB)" in info.warnings


@pytest.mark.usefixtures("server")
def test_a_model_that_was_described_twice_counts_once(tmp_path: Path) -> None:
    """With the source that it was described with last: `variant: auto` tries several."""
    sources = Sources(Settings(models=(), data_dir=str(tmp_path)))
    sources.describe(spec("chat=me/draft@vllm"))
    sources.describe(spec("chat=Qwen/Qwen3-8B@vllm"))
    sources.describe(spec("again=Qwen/Qwen3-8B@vllm"))
    assert sources.download_bytes() == len(CONFIG) + 2 + 100


def test_a_checkpoint_with_code_of_its_own_says_so(server: FakeHub, tmp_path: Path) -> None:
    server.files |= {
        "config.json": b'{"model_type": "novel", "auto_map": {"AutoConfig": "configuration.Novel"}}',
        "tokenizer_config.json": b'{"tokenizer_class": "NovelTokenizer", "auto_map": {"AutoTokenizer": ["t.N", null]}}',
    }
    info = Sources(Settings(models=(), data_dir=str(tmp_path))).describe(spec("Qwen/Qwen3-8B"))
    assert (info.own_config, info.own_tokenizer) == (True, "NovelTokenizer")


@pytest.mark.usefixtures("server")
def test_a_folder_with_the_name_of_a_hub_model_is_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = spec("chat=Qwen/Qwen3-8B@vllm")
    assert Sources(Settings(models=(), data_dir=str(tmp_path))).describe(wanted).warnings == ()
    folder = tmp_path / wanted.source
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (warning,) = Sources(Settings(models=(), data_dir=str(tmp_path))).describe(wanted).warnings
    assert warning == "'Qwen/Qwen3-8B' is taken from the hub; a folder of that name exists here, './Qwen/Qwen3-8B'"
    with pytest.raises(ConfigError, match=r"a folder of that name exists here, '\./Qwen/Qwen3-8B'"):
        Sources(Settings(models=(), data_dir=str(tmp_path / "empty"), offline=True)).describe(wanted)
