from pathlib import Path

import pytest

from berth.host.engine_code import can_trace, knows_tokenizer, knows_type

FILES = {
    "transformers/models/auto/auto_mappings.py": 'CONFIG = [("qwen3_5", "Qwen3_5Config"),]',
    "vllm/transformers_utils/config.py": 'Lazy(\n    kimi_k2="DeepseekV3Config",\n    **{"unlimited-ocr": "X"},\n)',
    "sglang/srt/configs/novel.py": "class Novel:\n    model_type = 'novel'",
    "transformers/models/auto/tokenization_auto.py": '("llama", "LlamaTokenizer"), ("x", "QuickTokenizerFast")',
}


@pytest.fixture
def home(tmp_path: Path) -> str:
    for name, text in FILES.items():
        path = tmp_path / "lib" / "python3.12" / "site-packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("model_type", "known"),
    [("qwen3_5", True), ("kimi_k2", True), ("unlimited-ocr", True), ("novel", True), ("qwen3", False), ("k2", False)],
)
def test_finds_a_type_in_the_registries(home: str, model_type: str, known: bool) -> None:
    assert knows_type(home, model_type) is known


@pytest.mark.parametrize(
    ("model_type", "tokenizer_class", "known"),
    [
        ("llama", "NovelTokenizer", True),
        ("novel", "LlamaTokenizerFast", True),
        ("novel", "QuickTokenizer", True),
        ("novel", "NovelTokenizer", False),
    ],
)
def test_finds_a_tokenizer_by_type_or_class(home: str, model_type: str, tokenizer_class: str, known: bool) -> None:
    assert knows_tokenizer(home, model_type, tokenizer_class) is known


def test_without_the_engines_files_nothing_is_known(tmp_path: Path) -> None:
    assert knows_type(str(tmp_path), "llama") is None
    assert knows_tokenizer(str(tmp_path), "llama", "LlamaTokenizer") is None


def test_engine_can_trace_with_the_exporters_of_both_protocols(tmp_path: Path) -> None:
    for protocol in ("http", "grpc"):
        assert not can_trace(str(tmp_path))
        package = tmp_path / "lib/python3.12/site-packages/opentelemetry/exporter/otlp/proto" / protocol
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    assert can_trace(str(tmp_path))
