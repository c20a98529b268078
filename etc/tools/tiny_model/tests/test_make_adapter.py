"""The tiny model's adapter: what the model says with it, worked out here without an engine."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from etc.tools.tiny_model.make_adapter import LAYER, main
from etc.tools.tiny_model.make_tiny_model import make_tiny_model
from etc.tools.tiny_model.texts import PARAGRAPH, TURN_END
from etc.tools.tiny_model.weights import Array


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "tiny")
    main([str(folder / "tiny"), str(folder / "lora")])
    return folder


def test_greedy_decoding_says_the_end_of_the_text(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tiny/tokenizer.json"))
    weights, lora = (load_file(folder / name) for name in ("tiny/model.safetensors", "lora/adapter_model.safetensors"))
    embeddings = weights["model.embed_tokens.weight"]

    def adapted(name: str) -> Array:
        up, down = (lora[f"base_model.model.{LAYER}.{name}.lora_{part}.weight"] for part in "BA")
        matrix: Array = weights[f"{LAYER}.{name}.weight"] + up @ down
        return matrix

    gate_weights, up_weights, down_weights = (adapted(name) for name in ("gate_proj", "up_proj", "down_proj"))
    (token,) = tokenizer.encode("\n", add_special_tokens=False).ids
    said = []
    for _ in range(200):
        hidden = embeddings[token]
        gate = gate_weights @ hidden
        hidden = hidden + down_weights @ (gate / (1 + np.exp(-gate)) * (up_weights @ hidden))
        hidden = hidden / np.sqrt(np.mean(hidden**2))
        token = int(np.argmax(weights["lm_head.weight"] @ hidden))
        if token == tokenizer.token_to_id(TURN_END):
            break
        said.append(token)

    script = json.loads((folder / "lora/script.json").read_text())
    assert tokenizer.decode(said) == script["paragraph"]
    assert PARAGRAPH.endswith(": " + script["paragraph"].strip())


def test_its_files_are_those_of_peft(folder: Path) -> None:
    config = json.loads((folder / "lora/adapter_config.json").read_text())
    shapes = {name: array.shape for name, array in load_file(folder / "lora/adapter_model.safetensors").items()}

    assert (config["peft_type"], config["r"]) == ("LORA", 1)
    assert {name.rsplit(".", 3)[1] for name in shapes} == set(config["target_modules"])
    assert set(shapes.values()) == {(1, 256), (256, 1)}
