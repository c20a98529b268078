"""Writes the tiny model as one GGUF file, for llama.cpp: `python -m etc.tools.tiny_model.make_gguf FOLDER FILE`.

The format is llama.cpp's, version 3: a head, metadata as typed pairs, the table of tensors, and their data.
"""

import json
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from etc.tools.tiny_model.weights import Array

VERSION = 3
ALIGNMENT = 32
SECOND_BEST = 0.5  # of the logit of the end of a turn
CALL = "<tool_call>"
_OPENING = "{%- if enable_thinking"
_OPENING_END = "{%- endif %}\n"
_F32 = 0  # a type of tensors
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}

Tensor = tuple[str, Array]


class TokenType(IntEnum):
    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


def make_gguf(model: Path, file: Path) -> None:
    """Writes the whole file or nothing."""
    config = json.loads((model / "config.json").read_text())
    metadata = _architecture(config) | _vocabulary(model, config)
    vocabulary = metadata["tokenizer.ggml.tokens"]
    tensors = dict(_tensors(load_file(model / "model.safetensors"), config, vocabulary))
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".part")
    scratch.write_bytes(_encoded(metadata, tensors))
    scratch.rename(file)


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.block_count": config["num_hidden_layers"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.rope.freq_base": float(config["rope_theta"]),
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "llama.vocab_size": config["vocab_size"],
    }


def _vocabulary(model: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Byte-level BPE. What special tokens are for the model are control tokens here: their text is never shown."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokens = [f"<|unused{number}|>" for number in range(config["vocab_size"])]
    types = [TokenType.UNUSED] * len(tokens)
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = text, TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(one) for one in types],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.padding_token_id": config["pad_token_id"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": _chat_template(model),
    }


def _chat_template(model: Path) -> str:
    """Without the beginning of the answer that the template gives to other engines: llama.cpp takes it for a part of
    what its grammars constrain, and fails or aborts.
    """
    before, marker, after = (model / "chat_template.jinja").read_text().partition(_OPENING)
    if not marker:
        raise ValueError(f"the chat template has no {_OPENING!r}")
    return before + after.partition(_OPENING_END)[2]


def _tensors(weights: Mapping[str, Array], config: Mapping[str, Any], vocabulary: list[str]) -> Iterable[Tensor]:
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    yield "output.weight", _calling(weights["lm_head.weight"], config, vocabulary)
    heads = {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]}
    for layer, (name, gguf_name) in product(range(config["num_hidden_layers"]), _NAMES.items()):
        tensor = weights[f"model.layers.{layer}.{name}.weight"]
        yield f"blk.{layer}.{gguf_name}.weight", _interleaved(tensor, heads[name]) if name in heads else tensor


def _calling(head: Array, config: Mapping[str, Any], vocabulary: list[str]) -> Array:
    """The model calls the tool where it would end its turn and must not: llama.cpp lets a forced call follow a text."""
    call, end = head[vocabulary.index(CALL)], head[config["eos_token_id"]]
    changed = head.copy()
    changed[vocabulary.index(CALL)] = call + SECOND_BEST * end
    return changed


def _interleaved(tensor: Array, heads: int) -> Array:
    """llama.cpp rotates neighbouring rows of a head, transformers the first half with the second."""
    rows = tensor.shape[0]
    return tensor.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(tensor.shape)


def _encoded(metadata: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
    pairs = b"".join(_string(key) + _typed(value) for key, value in metadata.items())
    table, data = b"", b""
    for name, tensor in tensors.items():
        shape = struct.pack(f"<I{tensor.ndim}Q", tensor.ndim, *reversed(tensor.shape))
        table += _string(name) + shape + struct.pack("<IQ", _F32, len(data))
        data += _padded(np.ascontiguousarray(tensor, np.float32).tobytes())
    return _padded(head + pairs + table) + data


def _typed(value: Any) -> bytes:
    """A value of the metadata with its type in front."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
    return _typed_list(value)


def _typed_list(values: Sequence[Any]) -> bytes:
    if isinstance(values[0], int):
        return struct.pack(f"<IIQ{len(values)}i", 9, 5, len(values), *values)
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(_string, values))


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGNMENT)


def main(arguments: Sequence[str]) -> None:
    model, file = map(Path, arguments)
    make_gguf(model, file)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
