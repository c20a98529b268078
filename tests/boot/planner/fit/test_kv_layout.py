"""KV caches against the figures that engines logged at their start, and the rules of the layout by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from berth.boot.checkpoints.cache_layers import CacheLayer, LayerKind
from berth.boot.checkpoints.metadata import CONFIG, model_info
from berth.boot.planner.fit.kv_layout import KvLayout, UniformLayout, longest, paged_layout, pool_layout
from berth.boot.planner.fit.memory import CacheOptions, kv_layout
from berth.plan import EngineName
from berth.units import GIB

LOGS = json.loads(Path(__file__).with_name("kv_cache_logs.json").read_text())["rows"]
# Layouts of their own: DeepSeek V4 compresses most layers, and the published config of Gemma 4 E2B is incomplete.
UNKNOWN = {"deepseek-v4-flash-spark": 2.65, "gemma4-e2b-bf16": 0.84}

FULL = CacheLayer(kind=LayerKind.FULL, kv_heads=8, dims=256)  # 4,096 bytes per token of 16 bits
SLIDING = CacheLayer(kind=LayerKind.SLIDING, kv_heads=8, dims=256, window=1024)
CHUNKED = CacheLayer(kind=LayerKind.CHUNKED, kv_heads=8, dims=256, window=8192)
STATE = CacheLayer(kind=LayerKind.RECURRENT, conv_width=1024, conv_tokens=3, state_elements=512 * 1024)
ROW, STATE_BYTES = 4096, 1024 * 3 * 2 + 512 * 1024 * 2


def paged(*layers: CacheLayer, **options: Any) -> KvLayout:
    given = {"gpus": 1, "element_bytes": 2.0, "in_flight": 4096, **options}
    return paged_layout(layers, **given)


@pytest.mark.parametrize("row", LOGS, ids=[row["id"] for row in LOGS])
def test_agrees_with_the_logs_of_engines(row: dict[str, Any]) -> None:
    info = model_info(row["id"], {CONFIG: row["config"]}, {})
    options = CacheOptions(kv_dtype=row["kv_dtype"], draft_tokens=row["draft_tokens"])
    layout = kv_layout(info, engine=EngineName(row["engine"]), gpus=row["gpus"], options=options)

    assert layout is not None
    planned = layout.request_bytes(row["max_model_len"]) / row["max_model_len"]
    logged = row["kv_gib"] * GIB / row["kv_tokens"]
    assert planned / logged == pytest.approx(UNKNOWN.get(row["id"], 1.0), rel=0.03)


def test_full_attention_grows_by_whole_blocks() -> None:
    layout = paged(FULL, FULL)
    assert layout.request_bytes(1) == layout.request_bytes(16) == 2 * 16 * ROW
    assert layout.request_bytes(17) == 2 * 32 * ROW
    assert layout.bytes_per_token == 2 * ROW


def test_layers_of_unlike_sizes_share_blocks_without_padding() -> None:
    small = CacheLayer(kind=LayerKind.FULL, shared_dims=576)
    assert paged(FULL, small).bytes_per_token == ROW + 576 * 2


def test_a_window_takes_no_more_than_itself_and_what_is_in_flight() -> None:
    layout = paged(FULL, SLIDING)
    sliding_blocks = (1023 + 4096 + 15) // 16 + 1
    assert layout.request_bytes(100_000) == 16 * ROW * (100_000 // 16 + sliding_blocks)
    assert layout.bytes_per_token == ROW
    assert paged(CHUNKED).request_bytes(100_000) == 16 * ROW * (8192 + 4096) // 16


def test_groups_have_as_many_layers_as_the_rarest_kind() -> None:
    layout = paged(FULL, *[SLIDING] * 5)
    sliding_blocks = (1023 + 4096 + 15) // 16 + 1
    assert layout.request_bytes(16_000) == 16 * ROW * (1000 + 5 * sliding_blocks)


def test_kinds_of_nearly_equal_number_share_the_larger_groups() -> None:
    layout = paged(*[FULL] * 4, *[SLIDING] * 5)
    sliding_blocks = (1023 + 4096 + 15) // 16 + 1
    assert layout.request_bytes(16_000) == 5 * 16 * ROW * (1000 + sliding_blocks)


def test_a_block_is_long_enough_for_a_recurrent_state() -> None:
    layout = paged(FULL, STATE, STATE, STATE)
    block = -(-STATE_BYTES // (16 * ROW)) * 16
    assert layout.request_bytes(1) == block * ROW * (1 + 3 * 2)
    assert layout.bytes_per_token == ROW


def test_speculation_keeps_a_state_per_draft_token() -> None:
    plain, drafting = paged(FULL, STATE), paged(FULL, STATE, draft_tokens=3)
    state = STATE_BYTES + 1024 * 3 * 2
    block = -(-state // (16 * ROW)) * 16
    assert drafting.request_bytes(1) == block * ROW * (1 + 2 + 3)
    assert drafting.request_bytes(1) > plain.request_bytes(1)


def test_gpus_divide_heads_and_states_until_each_has_one() -> None:
    assert [paged(FULL, gpus=gpus).bytes_per_token for gpus in (1, 2, 8, 16)] == [ROW, ROW // 2, ROW // 8, ROW // 8]
    assert STATE.state_bytes(gpus=4) == STATE_BYTES // 4


def test_scales_are_kept_per_head_for_keys_and_values() -> None:
    assert paged(FULL, element_bytes=1.0, scale_bytes=4).bytes_per_token == 8 * 256 + 8 * 2 * 4


def test_sglang_has_a_pool_per_kind() -> None:
    layout = pool_layout([FULL, SLIDING], gpus=1, element_bytes=2.0)
    assert layout.request_bytes(1000) == 1000 * layout.bytes_per_token
    assert layout.bytes_per_token == pytest.approx(1.8 * ROW, abs=1)
    assert pool_layout([FULL, STATE], gpus=1, element_bytes=2.0).bytes_per_token == pytest.approx(1.9 * ROW, abs=1)


@pytest.mark.parametrize("layout", [UniformLayout(bytes_per_token=100), paged(FULL, SLIDING, STATE)])
@pytest.mark.parametrize("kv_bytes", [0, 10**6, 10**8, 10**12])
def test_the_longest_request_is_the_last_that_fits(layout: KvLayout, kv_bytes: int) -> None:
    limit = 1_000_000
    tokens = longest(layout, kv_bytes, limit)
    assert tokens == 0 or layout.request_bytes(tokens) <= kv_bytes
    assert tokens == limit or layout.request_bytes(tokens + 1) > kv_bytes
