"""The GGUF file, read by a reader of its own. That llama.cpp takes it is shown by tests/e2e/test_llamacpp.py."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from etc.tools.tiny_model.make_gguf import ALIGNMENT, CALL, make_gguf
from etc.tools.tiny_model.make_tiny_model import make_tiny_model

FORMATS = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}


class Gguf:
    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)
        assert self.stream.read(4) == b"GGUF"
        version, tensors, pairs = self.number("<I"), self.number("<Q"), self.number("<Q")
        assert version == 3
        self.metadata = {self.text(): self.value(self.number("<I")) for _ in range(pairs)}
        table = [self.entry() for _ in range(tensors)]
        start = -(-self.stream.tell() // ALIGNMENT) * ALIGNMENT
        self.tensors = {
            name: np.frombuffer(data, np.float32, int(np.prod(shape)), start + offset).reshape(shape)
            for name, shape, offset in table
        }

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.stream.read(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.stream.read(self.number("<Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.number("<I"), self.number("<Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(FORMATS[kind])

    def entry(self) -> tuple[str, list[int], int]:
        name, rank = self.text(), self.number("<I")
        shape = [self.number("<Q") for _ in range(rank)][::-1]
        assert self.number("<I") == 0
        offset = self.number("<Q")
        assert offset % ALIGNMENT == 0
        return name, shape, offset


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder, "random")
    return folder


@pytest.fixture(scope="module")
def gguf(model: Path) -> Gguf:
    make_gguf(model, model.parent / "tiny.gguf")
    return Gguf((model.parent / "tiny.gguf").read_bytes())


def test_has_the_vocabulary_of_the_tokenizer(gguf: Gguf, model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokens, types = gguf.metadata["tokenizer.ggml.tokens"], gguf.metadata["tokenizer.ggml.token_type"]
    assert {tokens[number]: number for number in tokenizer["model"]["vocab"].values()} == tokenizer["model"]["vocab"]
    assert [types[tokens.index(text)] for text in ("<|im_end|>", CALL, "a")] == [3, 4, 1]
    assert len(gguf.metadata["tokenizer.ggml.merges"]) == len(tokenizer["model"]["merges"])
    assert gguf.metadata["llama.context_length"] == 4096


def test_has_every_tensor(gguf: Gguf, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    assert len(gguf.tensors) == len(weights)
    assert np.array_equal(gguf.tensors["token_embd.weight"], weights["model.embed_tokens.weight"])
    assert np.array_equal(gguf.tensors["blk.1.ffn_up.weight"], weights["model.layers.1.mlp.up_proj.weight"])


def test_rows_of_a_head_alternate_between_its_halves(gguf: Gguf, model: Path) -> None:
    rows = load_file(model / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    ours = gguf.tensors["blk.0.attn_q.weight"]
    for place, row in {0: 0, 1: 16, 2: 1, 31: 31, 32: 32, 33: 48}.items():
        assert np.array_equal(ours[place], rows[row])


def test_call_is_second_best_to_the_end_of_a_turn(gguf: Gguf, model: Path) -> None:
    head, tokens = load_file(model / "model.safetensors")["lm_head.weight"], gguf.metadata["tokenizer.ggml.tokens"]
    changed = np.flatnonzero((gguf.tensors["output.weight"] != head).any(axis=1))
    assert [tokens[row] for row in changed] == [CALL]


def test_template_leaves_the_answer_to_the_model(gguf: Gguf) -> None:
    template = gguf.metadata["tokenizer.chat_template"]
    assert template.endswith("{{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n")
    assert "enable_thinking" not in template


def test_template_of_another_form_is_an_error(model: Path, tmp_path: Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ValueError, match="the chat template has no"):
        make_gguf(tmp_path, tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()
