"""The folder that the tiny model is made in."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from etc.tools.tiny_model import make_tiny_model as module
from etc.tools.tiny_model.make_tiny_model import main, make_tiny_model
from etc.tools.tiny_model.texts import TURN_END

FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "script.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


def test_all_files_are_there_for_everybody_to_read(model: Path) -> None:
    assert {file.name for file in model.iterdir()} == FILES
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in model.iterdir())
    assert sum(file.stat().st_size for file in model.iterdir()) < 6_000_000


def test_two_makings_are_the_same_to_the_byte(model: Path, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(model)


def test_the_weights_fit_the_configuration(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    weights = load_file(model / "model.safetensors")
    assert weights["lm_head.weight"].shape == (config["vocab_size"], config["hidden_size"])
    keys = weights["model.layers.1.self_attn.k_proj.weight"]
    assert keys.shape == (config["num_key_value_heads"] * config["head_dim"], config["hidden_size"])
    assert len([name for name in weights if name.endswith("input_layernorm.weight")]) == config["num_hidden_layers"]


def test_greedy_decoding_of_the_written_files_says_the_script(model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    weights = load_file(model / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    normal = embeddings / np.sqrt((embeddings**2).mean(axis=1, keepdims=True) + 1e-6)  # the layers add nothing
    followers = (normal @ weights["lm_head.weight"].T).argmax(axis=1)
    (token,), said = tokenizer.encode("\n").ids, []
    while (token := int(followers[token])) != tokenizer.token_to_id(TURN_END):
        said.append(token)
    assert tokenizer.decode(said) == json.loads((model / "script.json").read_text())["paragraph"]


def test_the_end_of_a_turn_ends_an_answer(model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    generation = json.loads((model / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [tokenizer.token_to_id(TURN_END)]


def test_prompts_of_the_chat_template_end_in_tokens_of_the_script(model: Path) -> None:
    template = (model / "chat_template.jinja").read_text()
    assert template.index("<|im_start|>assistant\\n") < template.index("'<think>'") < template.index("'<|call|>'")


def test_what_lay_there_is_replaced_and_nothing_else_left(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "old").write_text("old")
    main([str(tmp_path / "tiny"), "--kind", "random", "--seed", "3"])
    assert {file.name for file in (tmp_path / "tiny").iterdir()} == FILES
    assert [file.name for file in tmp_path.iterdir()] == ["tiny"]
    assert json.loads((tmp_path / "tiny" / "script.json").read_text()) == {}


def test_a_making_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_model(tmp_path / "tiny", "random")
    before = contents(tmp_path / "tiny")
    monkeypatch.setattr(module, "TURN_END", "<|no such token|>")
    with pytest.raises(KeyError):
        make_tiny_model(tmp_path / "tiny", "random")
    assert contents(tmp_path / "tiny") == before
    assert [file.name for file in tmp_path.iterdir()] == ["tiny"]
