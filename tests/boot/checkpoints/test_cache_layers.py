"""The layers of published configurations: their kinds and what each caches."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from berth.boot.checkpoints.cache_layers import (
    CacheLayer,
    LayerKind,
    cache_layers,
    checkpoint_kv_dtype,
    draft_layers,
    layer_kinds,
)

FULL, SLIDING, CHUNKED, RECURRENT = LayerKind
GDN = {
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "mamba_ssm_dtype": "float32",
}
MAMBA2 = {"mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4}


def layers(config: dict[str, Any]) -> tuple[CacheLayer, ...]:
    return cache_layers(config, kv_heads=config.get("num_key_value_heads", 2), head_dim=config.get("head_dim", 64))


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"num_hidden_layers": 3}, [FULL] * 3),
        ({"n_layer": 2, "layer_types": []}, [FULL] * 2),
        ({"num_hidden_layers": 4, "full_attention_interval": 4}, [RECURRENT] * 3 + [FULL]),
        (
            {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention", "chunked_attention", "new"]},
            [RECURRENT, FULL, CHUNKED, FULL],
        ),
        ({"num_hidden_layers": 6, "sliding_window_pattern": 3, "sliding_window": 9}, [SLIDING, SLIDING, FULL] * 2),
        ({"num_hidden_layers": 2, "sliding_window_pattern": 2}, [FULL, FULL]),
        ({"num_hidden_layers": 6, "hybrid_override_pattern": "M-*EM-"}, [RECURRENT, None, FULL, None, RECURRENT, None]),
        ({"num_hidden_layers": 3, "layers_block_type": ["mamba", "attention", "mlp"]}, [RECURRENT, FULL, None]),
        (
            {"num_hidden_layers": 4, "linear_attn_config": {"full_attn_layers": [2, 4]}},
            [RECURRENT, FULL, RECURRENT, FULL],
        ),
        ({"num_hidden_layers": 3, "hybrid_layer_pattern": [0, 1, 1]}, [FULL, SLIDING, SLIDING]),
        (
            {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2},
            [RECURRENT, RECURRENT, FULL, RECURRENT],
        ),
        (
            {"block_configs": [{"attention": {"n_heads_in_group": 8}}, {"attention": {"no_op": True}}, "odd"]},
            [FULL, None, None],
        ),
    ],
)
def test_reads_the_kind_of_each_layer(config: dict[str, Any], kinds: list[LayerKind | None]) -> None:
    assert layer_kinds(config) == kinds


def test_full_attention_keeps_key_and_value_of_each_head() -> None:
    (layer,) = layers({"num_hidden_layers": 1, "num_key_value_heads": 8, "head_dim": 128})
    assert layer.row_bytes(gpus=1, element_bytes=2.0) == 8 * 2 * 128 * 2


def test_a_value_may_be_narrower_than_its_key() -> None:
    (layer,) = layers({"num_hidden_layers": 1, "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128})
    assert layer.row_bytes(gpus=1, element_bytes=2.0) == 4 * (192 + 128) * 2


def test_gemma_4_has_wide_heads_in_full_layers_and_layers_without_a_cache() -> None:
    config = {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "sliding_window": 1024,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_global_key_value_heads": 4,
        "num_kv_shared_layers": 2,
    }
    sliding, full = layers(config)
    assert (sliding.kind, sliding.window, sliding.row_bytes(gpus=1, element_bytes=2.0)) == (SLIDING, 1024, 16 * 512 * 2)
    assert (full.kind, full.row_bytes(gpus=1, element_bytes=2.0)) == (FULL, 4 * 1024 * 2)


def test_mimo_has_other_heads_in_sliding_layers() -> None:
    own = {"swa_num_key_value_heads": 8, "swa_head_dim": 192, "swa_v_head_dim": 128, "sliding_window": 128}
    config = {"num_hidden_layers": 2, "hybrid_layer_pattern": [0, 1], "num_key_value_heads": 4, "head_dim": 192}
    full, sliding = layers({**config, **own, "v_head_dim": 128})
    assert full.row_bytes(gpus=1, element_bytes=1.0) == 4 * 320
    assert sliding.row_bytes(gpus=1, element_bytes=1.0) == 8 * 320


def test_latent_attention_is_whole_on_every_gpu() -> None:
    config = {"num_hidden_layers": 2, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128}
    assert [one.row_bytes(gpus=8, element_bytes=2.0) for one in layers(config)] == [1152, 1152]


def test_sparse_attention_has_an_indexer_and_its_own_form_of_fp8() -> None:
    config = {"num_hidden_layers": 2, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128}
    found = layers({**config, "indexer_types": ["full", "shared"]})
    assert [one.row_bytes(gpus=1, element_bytes=2.0) for one in found] == [1152, 132, 1152]
    assert [one.row_bytes(gpus=1, element_bytes=1.0) for one in found] == [656, 132, 656]


@pytest.mark.parametrize(
    ("config", "state_bytes"),
    [
        (GDN, (2 * 16 * 128 + 32 * 128) * 3 * 2 + 32 * 128 * 128 * 4),
        ({**GDN, "mamba_ssm_dtype": None}, (2 * 16 * 128 + 32 * 128) * 3 * 2 + 32 * 128 * 128 * 2),
        (MAMBA2, (64 * 64 + 2 * 8 * 128) * 3 * 2 + 64 * 64 * 128 * 2),
        ({"linear_attn_config": {"num_heads": 32, "head_dim": 128}}, 3 * 32 * 128 * 3 * 2 + 32 * 128 * 128 * 4),
        ({"conv_L_cache": 3, "hidden_size": 2048}, 2048 * 2 * 2),
        (
            {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "hidden_size": 4096},
            8192 * 3 * 2 + 8192 * 16 * 2,
        ),
    ],
    ids=["GDN", "GDN of 16 bits", "Mamba 2", "KDA", "short convolution", "Mamba"],
)
def test_a_recurrent_layer_keeps_a_state(config: dict[str, Any], state_bytes: int) -> None:
    (layer,) = layers({"num_hidden_layers": 1, "layer_types": ["linear_attention"], **config})
    assert layer.state_bytes(gpus=1) == state_bytes


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 2, "layer_types": ["mamba", "full_attention"]},
        {"num_hidden_layers": 2, "num_key_value_heads": None},
        {"num_hidden_layers": 2, "head_dim": None},
        {},
    ],
)
def test_unknown_sizes_make_the_whole_unknown(config: dict[str, Any]) -> None:
    assert layers(config) == ()


def test_a_window_without_a_size_counts_as_full() -> None:
    found = layers({"num_hidden_layers": 2, "layer_types": ["sliding_attention", "chunked_attention"]})
    assert Counter(one.kind for one in found) == {FULL: 2}


def test_predicting_layers_are_apart() -> None:
    config = {"num_hidden_layers": 4, "full_attention_interval": 4, "mtp_num_hidden_layers": 1, **GDN}
    (drafting,) = draft_layers(config, kv_heads=2, head_dim=256)
    assert (drafting.kind, drafting.row_bytes(gpus=1, element_bytes=2.0)) == (FULL, 2 * 512 * 2)
    assert draft_layers({"num_hidden_layers": 4}, kv_heads=2, head_dim=256) == ()


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ({"kv_cache_scheme": {"type": "float", "num_bits": 8}}, "fp8"),
        ({"kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"kv_cache_scheme": {"type": "int", "num_bits": 8}}, None),
        ({"quant_method": "awq"}, None),
        (None, None),
        ("odd", None),
    ],
)
def test_a_checkpoint_may_ask_for_an_fp8_cache(quantization: Any, dtype: str | None) -> None:
    assert checkpoint_kv_dtype({"quantization_config": quantization}) == dtype


FIELDS = """
    num_hidden_layers hybrid_override_pattern layers_block_type block_configs linear_attn_config hybrid_layer_pattern
    layer_types full_attention_interval attn_layer_period attn_layer_offset sliding_window_pattern sliding_window
    attention_chunk_size kv_lora_rank qk_rope_head_dim index_head_dim indexer_types swa_num_key_value_heads
    global_head_dim swa_head_dim v_head_dim linear_num_value_heads linear_key_head_dim conv_L_cache mamba_num_heads
    ssm_state_size n_groups mamba_ssm_dtype num_kv_shared_layers mtp_num_hidden_layers
    quantization_config kv_cache_scheme hidden_size
""".split()  # noqa: SIM905 - easier to read than a list
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "M*-", "mamba", "FP8"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*FIELDS, "attention", "full_attn_layers", "num_heads", "head_dim"]), inner)
    ),
    max_leaves=8,
)


@given(config=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8))
@example(config={"num_hidden_layers": 2**39})
@example(config={"block_configs": [{"attention": {"n_heads_in_group": 8}}, {}], "num_attention_heads": 64})
def test_any_config_is_read(config: dict[str, Any]) -> None:
    for layer in (*cache_layers(config, kv_heads=8, head_dim=128), *draft_layers(config, kv_heads=8, head_dim=128)):
        assert layer.row_bytes(gpus=2, element_bytes=2.0) + layer.state_bytes(gpus=2) >= 0
    checkpoint_kv_dtype(config)
