"""The files of real repositories, as far as their names matter."""

import pytest

from berth.boot.checkpoints.files import HubModel, format_names, has_tokenizer, hub_models, missing_files, needed_files

SMALL = ["config.json", "generation_config.json", "tokenizer.json", "README.md", "modeling_new.py"]
CASES: dict[str, tuple[list[str], list[str]]] = {
    "pictures and other programs' formats": (
        [
            "logo.png",
            "assets/demo.MP4",
            ".gitattributes",
            "model.onnx",
            "onnx/model.json",
            "flax_model.msgpack",
            "m.gguf",
        ],
        [],
    ),
    "the same weights as pickles": (
        ["model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"],
        ["model.safetensors"],
    ),
    "pickles alone": (["pytorch_model.bin", "sparse_linear.pt"], ["pytorch_model.bin", "sparse_linear.pt"]),
    "what the original was": (
        ["model.safetensors", "original/consolidated.00.pth", "metal/model.bin"],
        ["model.safetensors"],
    ),
    "Mistral's own format next to the hub's": (
        ["model.safetensors", "consolidated.safetensors"],
        ["model.safetensors"],
    ),
    "Mistral's own format alone": (["consolidated.safetensors"], ["consolidated.safetensors"]),
    "the parts of a sentence-transformer": (
        ["model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"],
        ["1_Pooling/config.json", "2_Dense/model.safetensors", "model.safetensors"],
    ),
    "what a training left": (
        [
            "adapter_model.safetensors",
            "adapter_config.json",
            "optimizer.pt",
            "training_args.bin",
            "checkpoint-10/x.json",
        ],
        ["adapter_config.json", "adapter_model.safetensors"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_needs_only_files_that_engines_read(name: str) -> None:
    names, expected = CASES[name]
    assert set(needed_files(SMALL + names)) == {*SMALL, *expected}


def test_needs_mistral_files_on_request() -> None:
    assert "consolidated.safetensors" in needed_files(["model.safetensors", "consolidated.safetensors"], mistral=True)


INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@pytest.mark.parametrize(
    ("names", "index", "missing"),
    [
        ({"config.json", "tokenizer.json", "model.safetensors"}, None, ()),
        ({"config.json", "qwen.tiktoken", "model-1.safetensors"}, INDEX, ("model-2.safetensors",)),
        ({"adapter_config.json", "adapter_model.bin"}, None, ()),
        ({"adapter_config.json"}, None, ("adapter_model.safetensors",)),
    ],
)
def test_names_missing_files(names: set[str], index: object, missing: tuple[str, ...]) -> None:
    assert missing_files(names, index) == missing


def test_an_empty_folder_lacks_config_tokenizer_and_weights() -> None:
    config, tokenizer, weights = missing_files((), None)
    assert config == "config.json"
    assert tokenizer.startswith("a tokenizer (tokenizer.json, ")
    assert weights.startswith("model.safetensors, or ")


def test_mistral_format_is_required_on_request() -> None:
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    assert missing_files(names, None, mistral=True) == ("consolidated.safetensors",)
    assert missing_files([*names, "consolidated.safetensors"], None, mistral=True) == ()


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "sentencepiece.bpe.model", "tiktoken.model", "vocab.txt", "tekken.json"]
)
def test_recognises_tokenizers(name: str) -> None:
    assert has_tokenizer(["config.json", name])
    assert not has_tokenizer(["config.json", f"folder/{name}"])


def test_long_list_is_shortened() -> None:
    names = [str(number) for number in range(30)]
    assert format_names(names[:2]) == "0, 1"
    assert format_names(names).endswith(", 19 and 10 more")


def test_model_and_extra_sources() -> None:
    assert hub_models("org/chat", "v2", ("org/draft",), ()) == (
        HubModel(source="org/chat", revision="v2"),
        HubModel(source="org/draft"),
    )


def test_local_model_downloads_only_extra_sources() -> None:
    assert hub_models("/data/chat", None, ("org/draft",), ()) == (HubModel(source="org/draft"),)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--load-format", "mistral"), True),
        (("--config-format=mistral",), True),
        (("--tool-call-parser", "mistral"), False),
        (("--load-format", "auto", "mistral"), False),
        (("--load-format",), False),
    ],
)
def test_options_select_mistral_format(args: tuple[str, ...], expected: bool) -> None:
    [model] = hub_models("org/chat", None, (), args)
    assert model.mistral is expected
