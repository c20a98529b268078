"""The files of real repositories, as far as their names matter."""

import pytest

from berth.boot.checkpoints.files import has_tokenizer, lacking, listed, needed

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
    "Mistral's own format beside the hub's": (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
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
    names, wanted = CASES[name]
    assert set(needed(SMALL + names)) == {*SMALL, *wanted}


def test_needs_mistral_files_on_request() -> None:
    assert "consolidated.safetensors" in needed(["model.safetensors", "consolidated.safetensors"], mistral=True)


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
    assert lacking(names, index) == missing


def test_an_empty_folder_lacks_config_tokenizer_and_weights() -> None:
    config, tokenizer, weights = lacking((), None)
    assert config == "config.json"
    assert tokenizer.startswith("a tokenizer (tokenizer.json, ")
    assert weights.startswith("model.safetensors, or ")


def test_mistral_format_is_required_on_request() -> None:
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    assert lacking(names, None, mistral=True) == ("consolidated.safetensors",)
    assert lacking([*names, "consolidated.safetensors"], None, mistral=True) == ()


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "sentencepiece.bpe.model", "tiktoken.model", "vocab.txt", "tekken.json"]
)
def test_recognises_tokenizers(name: str) -> None:
    assert has_tokenizer(["config.json", name])
    assert not has_tokenizer(["config.json", f"folder/{name}"])


def test_long_list_is_shortened() -> None:
    names = [str(number) for number in range(30)]
    assert listed(names[:2]) == "0, 1"
    assert listed(names).endswith(", 19 and 10 more")
