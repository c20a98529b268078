"""What each layer of a model caches per request, read from config.json. Pure.

Field names are those of the published configurations; the sizes follow vLLM 0.33 (v1/kv_cache_interface.py and the
models' own `get_kv_cache_spec`), checked against start-up logs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
SPARSE_FP8_ROW_BYTES = (
    656  # DeepSeek's sparse MLA in FP8 (fp8_ds_mla): 512 values, 16 bytes of scales, 128 of 16-bit RoPE
)
MOST_LAYERS = 10_000  # a number beyond is a mistake in the file
INDEX_SCALE_BYTES = 4  # of the indexer's row, next to one byte per element


class LayerKind(StrEnum):
    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    RECURRENT = "recurrent"  # Mamba, gated delta nets, short convolutions: a state per request, whatever its length


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayer:
    """One cache of one layer. Sizes are for the whole model: `row_bytes` and `state_bytes` divide them among GPUs."""

    kind: LayerKind
    kv_heads: int = 0
    dims: int = 0  # of key and value together, per head
    shared_dims: int = 0  # MLA: elements that every GPU holds
    fixed_bytes: int = 0  # per token on every GPU, whatever the KV data type: an indexer's row
    sparse: bool = False  # MLA with an indexer
    window: int | None = None  # tokens
    conv_width: int = 0  # elements that a recurrent layer keeps of each of the last `conv_tokens` tokens
    conv_tokens: int = 0
    state_elements: int = 0
    state_element_bytes: int | None = None  # None: as the weights'
    states: int = 2  # per request, with prefix caching: that of the last block, the running one, Mamba 2's checkpoint

    def row_bytes(self, *, gpus: int, element_bytes: float, scale_bytes: int = 0) -> int:
        """Bytes per token on each GPU. Heads are copied where there are more GPUs than heads. `scale_bytes`: per head,
        for its key and its value each.
        """
        if self.sparse and element_bytes == 1:
            return SPARSE_FP8_ROW_BYTES
        heads = -(-self.kv_heads // max(gpus, 1))
        scales = 2 * heads * scale_bytes
        return math.ceil((heads * self.dims + self.shared_dims) * element_bytes) + scales + self.fixed_bytes

    def state_bytes(self, *, gpus: int, weight_bytes: float = 2.0, draft_tokens: int = 0) -> int:
        """Bytes per request on each GPU. `weight_bytes`: per element of the weights' data type."""
        parts = max(gpus, 1)
        conv = self.conv_width // parts * (self.conv_tokens + draft_tokens) * weight_bytes
        return math.ceil(conv + self.state_elements // parts * (self.state_element_bytes or weight_bytes))


def cache_layers(config: Mapping[str, Any], *, kv_heads: int | None, head_dim: int | None) -> tuple[CacheLayer, ...]:
    """One entry per cache, in the order of the layers; empty where the sizes are unknown. `config` is the language
    model's, with the fields around it.
    """
    kinds = layer_kinds(config)
    shared = _count(config, "num_kv_shared_layers")
    kept = kinds[: len(kinds) - shared] if shared < len(kinds) else kinds
    found: list[CacheLayer] = []
    for index, kind in enumerate(kept):
        if kind is None:
            continue
        made = _layer(config, kind, index, kv_heads=kv_heads, head_dim=head_dim)
        if not made:
            return ()
        found += made
    return tuple(found)


Kinds = list[LayerKind | None]  # one per layer; None: it caches nothing


def layer_kinds(config: Mapping[str, Any]) -> Kinds:
    """The kind of each layer. Every family has its own way to say it; without any, all layers have full attention."""
    count = min(_count(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"), MOST_LAYERS)
    found = (reader(config, count) for reader in READERS)
    return next((kinds for kinds in found if kinds), [LayerKind.FULL] * count)


def listed_kinds(config: Mapping[str, Any], count: int) -> Kinds:
    """A list, or a string, with a word or a letter per layer."""
    if isinstance(pattern := config.get("hybrid_override_pattern"), str):  # Nemotron-H: M-M*E
        return [{"M": LayerKind.RECURRENT, "*": LayerKind.FULL}.get(letter) for letter in pattern]
    if isinstance(blocks := config.get("layers_block_type"), list):  # Granite 4, Bamba
        return [{"mamba": LayerKind.RECURRENT, "attention": LayerKind.FULL}.get(str(block)) for block in blocks]
    if isinstance(pattern := config.get("hybrid_layer_pattern"), list):  # MiMo: 1 slides
        return [LayerKind.SLIDING if one else LayerKind.FULL for one in pattern[:count]]
    if isinstance(types := config.get("layer_types"), list):
        return [KIND_NAMES.get(str(one), LayerKind.FULL) for one in types[:count]]
    return []


def puzzle_kinds(config: Mapping[str, Any], _count: int) -> Kinds:
    """Nemotron's puzzle: a description of each block."""
    blocks, kinds = config.get("block_configs"), Kinds()
    for index in range(len(blocks) if isinstance(blocks, list) else 0):
        attention = _attention_of(config, index)
        skipped = not attention or attention.get("no_op") or attention.get("replace_with_linear")
        kinds.append(None if skipped else LayerKind.FULL)
    return kinds


def _attention_of(config: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """The description of one block's attention; empty where there is none."""
    blocks = config.get("block_configs")
    block = blocks[index] if isinstance(blocks, list) and 0 <= index < len(blocks) else None
    attention = block.get("attention") if isinstance(block, Mapping) else None
    return attention if isinstance(attention, Mapping) else {}


def alternating_kinds(config: Mapping[str, Any], count: int) -> Kinds:
    """Full attention in some layers, one other kind in between."""
    linear = config.get("linear_attn_config")
    if isinstance(linear, Mapping) and isinstance(full := linear.get("full_attn_layers"), list):  # Kimi: from 1
        chosen, other = {layer - 1 for layer in full if isinstance(layer, int)}, LayerKind.RECURRENT
    elif every := _count(config, "full_attention_interval"):  # Qwen3-Next
        chosen, other = set(range(every - 1, count, every)), LayerKind.RECURRENT
    elif every := _count(config, "attn_layer_period"):  # Jamba
        chosen, other = set(range(_count(config, "attn_layer_offset"), count, every)), LayerKind.RECURRENT
    elif (every := _count(config, "sliding_window_pattern", "_sliding_window_pattern")) and _count(
        config, "sliding_window"
    ):
        chosen, other = set(range(every - 1, count, every)), LayerKind.SLIDING  # Gemma 3, Cohere
    else:
        return []
    return [LayerKind.FULL if index in chosen else other for index in range(count)]


READERS: tuple[Callable[[Mapping[str, Any], int], Kinds], ...] = (puzzle_kinds, listed_kinds, alternating_kinds)
KIND_NAMES = {
    "sliding_attention": LayerKind.SLIDING,
    "local_attention": LayerKind.SLIDING,
    "chunked_attention": LayerKind.CHUNKED,
    "linear_attention": LayerKind.RECURRENT,
    "mamba": LayerKind.RECURRENT,
    "recurrent": LayerKind.RECURRENT,
    "conv": LayerKind.RECURRENT,
}


def _layer(
    config: Mapping[str, Any], kind: LayerKind, index: int, *, kv_heads: int | None, head_dim: int | None
) -> list[CacheLayer]:
    """The caches of one layer; empty where their size is unknown."""
    if kind is LayerKind.RECURRENT:
        return _recurrent(config)
    if latent := _count(config, "kv_lora_rank"):
        return _latent(config, index, latent)
    heads, key, value = kv_heads, head_dim, _count(config, "v_head_dim") or head_dim
    if group := _count(_attention_of(config, index), "n_heads_in_group"):  # Nemotron puzzle
        heads = _count(config, "num_attention_heads") // group
    if kind is LayerKind.SLIDING and (own := _count(config, "swa_num_key_value_heads")):  # MiMo
        heads, key = own, _count(config, "swa_head_dim") or head_dim
        value = _count(config, "swa_v_head_dim") or key
    elif kind is LayerKind.FULL and (wide := _count(config, "global_head_dim")):  # Gemma 4: K = V is stored twice
        heads, key, value = _count(config, "num_global_key_value_heads") or kv_heads, wide, wide
    if not (heads and key and value):
        return []
    window = _count(config, "attention_chunk_size" if kind is LayerKind.CHUNKED else "sliding_window") or None
    if window is None:
        kind = LayerKind.FULL
    return [CacheLayer(kind=kind, kv_heads=heads, dims=key + value, window=None if kind is LayerKind.FULL else window)]


def _latent(config: Mapping[str, Any], index: int, latent: int) -> list[CacheLayer]:
    """MLA, with the cache of an indexer (DeepSeek V3.2, GLM 5) unless the layer shares another's."""
    index_dim, types = _count(config, "index_head_dim"), config.get("indexer_types")
    shared = isinstance(types, list) and 0 <= index < len(types) and types[index] == "shared"
    dims = latent + _count(config, "qk_rope_head_dim")
    attention = CacheLayer(kind=LayerKind.FULL, shared_dims=dims, sparse=bool(index_dim))
    if not index_dim or shared:
        return [attention]
    return [attention, CacheLayer(kind=LayerKind.FULL, fixed_bytes=index_dim + INDEX_SCALE_BYTES)]


def _recurrent(config: Mapping[str, Any]) -> list[CacheLayer]:
    """A gated delta net, KDA, a short convolution, Mamba 2 or Mamba, by the fields that only they have."""
    linear = config.get("linear_attn_config")
    if values := _count(config, "linear_num_value_heads"):  # Qwen3-Next and 3.5
        key_dim, value_dim = _count(config, "linear_key_head_dim"), _count(config, "linear_value_head_dim")
        width = 2 * _count(config, "linear_num_key_heads") * key_dim + values * value_dim
        kernel, state, dtype = _count(config, "linear_conv_kernel_dim"), values * value_dim * key_dim, "mamba_ssm_dtype"
    elif isinstance(linear, Mapping):  # Kimi
        heads, dim = _count(linear, "num_heads"), _count(linear, "head_dim")
        width, kernel, state = 3 * heads * dim, _count(linear, "short_conv_kernel_size") or 4, heads * dim * dim
        config, dtype = {"dtype of its states": "float32"}, "dtype of its states"
    elif kernel := _count(config, "conv_L_cache"):  # LFM2
        width, state, dtype = _count(config, "hidden_size"), 0, ""
    else:
        size = _count(config, "ssm_state_size", "mamba_d_state", "state_size")
        kernel, dtype = _count(config, "conv_kernel", "mamba_d_conv") or 4, "mamba_ssm_cache_dtype"
        heads = _count(config, "mamba_num_heads", "mamba_n_heads")  # Mamba 2; Mamba has none
        groups = (_count(config, "n_groups", "mamba_n_groups") or 1) if heads else 0
        inner = heads * _count(config, "mamba_head_dim", "mamba_d_head")
        inner = inner or (_count(config, "mamba_expand", "expand") or 2) * _count(config, "hidden_size")
        width, state = (inner + 2 * groups * size) if size else 0, inner * size
    layer = CacheLayer(
        kind=LayerKind.RECURRENT,
        conv_width=width,
        conv_tokens=kernel - 1,
        state_elements=state,
        state_element_bytes=ELEMENT_BYTES.get(str(config.get(dtype))),
        states=3 if _count(config, "mamba_num_heads", "mamba_n_heads") else 2,
    )
    return [layer] if width > 0 and kernel > 0 else []


def draft_layers(config: Mapping[str, Any], *, kv_heads: int | None, head_dim: int | None) -> tuple[CacheLayer, ...]:
    """The caches of the layers that predict further tokens (MTP), which are loaded only for speculation."""
    count = min(_count(config, "mtp_num_hidden_layers", "num_nextn_predict_layers"), MOST_LAYERS)
    layer = _layer(config, LayerKind.FULL, -1, kv_heads=kv_heads, head_dim=head_dim)
    return tuple(layer * count)


def checkpoint_kv_dtype(config: Mapping[str, Any]) -> str | None:
    """The data type of the KV cache that the checkpoint asks for, which engines follow; None: the model's own."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    scheme = found.get("kv_cache_scheme")
    eight_bits = isinstance(scheme, Mapping) and scheme.get("type") == "float" and scheme.get("num_bits") == 8
    return "fp8" if eight_bits or str(found.get("kv_cache_quant_algo")).upper() == "FP8" else None


def _count(config: Mapping[str, Any], *names: str) -> int:
    """The first of these fields with a positive integer, else 0."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
            return value
    return 0
