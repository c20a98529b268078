"""Placement: tables for the rules, and a property for the one that must never break."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.planner.placement import Demand, EngineNeed, Placed, counts, divides, place, place_on_cpu
from berth.plan import EngineName, Gpu, Task
from tests.fakes.machine import BGE_M3, GIB, LLAMA_70B, QWEN_8B, TINY, gpu, gpus

UNKNOWN = ModelInfo(source="x/unknown")


def need(overhead_gib: float = 3, engine: EngineName = EngineName.VLLM) -> EngineNeed:
    return EngineNeed(engine=engine, overhead_bytes=lambda count: int(overhead_gib * GIB) if count else 0)


def demand(info: ModelInfo, name: str = "", **fields: Any) -> Demand:
    return Demand(**{"name": name or info.source, "info": info, "engines": (need(),), **fields})


def placed(*demands: Demand, on: tuple[Gpu, ...], fraction: float = 0.9) -> tuple[Placed, ...]:
    found = place(demands, on, fraction)
    assert found is not None
    return found


def indexes(found: tuple[Placed, ...]) -> list[tuple[int, ...]]:
    return [tuple(card.index for card in one.gpus) for one in found]


@pytest.mark.parametrize(
    ("demands", "machine", "expected"),
    [
        ([demand(QWEN_8B)], gpus(1), [(0,)]),
        ([demand(QWEN_8B)], gpus(8), [(0,)]),
        ([demand(LLAMA_70B)], gpus(2), [(0, 1)]),
        ([demand(LLAMA_70B)], gpus(8), [(0, 1)]),
        ([demand(LLAMA_70B, context=131072)], gpus(8), [(0, 1, 2, 3)]),
        ([demand(LLAMA_70B)], gpus(8, total_gib=24), [(0, 1, 2, 3, 4, 5, 6, 7)]),
        ([demand(QWEN_8B), demand(BGE_M3)], gpus(1), [(0,), (0,)]),
        ([demand(BGE_M3), demand(QWEN_8B)], gpus(2), [(1,), (0,)]),
        ([demand(QWEN_8B, "a"), demand(QWEN_8B, "b"), demand(QWEN_8B, "c")], gpus(2), [(0,), (1,), (0,)]),
        ([demand(QWEN_8B), demand(LLAMA_70B)], gpus(4), [(2,), (0, 1)]),
        ([demand(QWEN_8B, gpus=(3,))], gpus(4), [(3,)]),
        ([demand(QWEN_8B, gpus=("GPU-00000002", 0))], gpus(4), [(0, 2)]),
        ([demand(QWEN_8B, gpus=4)], gpus(4), [(0, 1, 2, 3)]),
        ([demand(QWEN_8B, "any"), demand(QWEN_8B, "tied", gpus=(0,))], gpus(2), [(1,), (0,)]),
        ([demand(QWEN_8B)], (gpu(0, mig=True), gpu(1)), [(1,)]),
        ([demand(QWEN_8B)], (gpu(0, total_gib=24), gpu(1)), [(1,)]),
        ([demand(QWEN_8B)], (gpu(0, free_gib=10), gpu(1)), [(1,)]),
        ([demand(UNKNOWN), demand(BGE_M3)], gpus(2), [(1,), (0,)]),
        ([], gpus(1), []),
        ([], (), []),
    ],
)
def test_who_goes_where(demands: list[Demand], machine: tuple[Gpu, ...], expected: list[tuple[int, ...]]) -> None:
    assert indexes(placed(*demands, on=machine)) == expected


@pytest.mark.parametrize(
    ("demands", "machine"),
    [
        ([demand(QWEN_8B)], ()),
        ([demand(LLAMA_70B)], gpus(1)),
        ([demand(QWEN_8B)], gpus(8, total_gib=1)),
        ([demand(QWEN_8B, gpus=2)], gpus(1)),
        ([demand(QWEN_8B, gpus=(4,))], gpus(2)),
        ([demand(QWEN_8B)], (gpu(mig=True),)),
        ([demand(QWEN_8B, context=40960, kv_cache_bytes=70 * GIB)], gpus(1)),
        ([demand(LLAMA_70B, gpus=2)], (gpu(0), gpu(1, total_gib=94))),
        ([demand(UNKNOWN), demand(BGE_M3)], gpus(1)),
        ([demand(QWEN_8B)], (replace(gpu(), memory_total_bytes=0, memory_free_bytes=0),)),
    ],
)
def test_what_does_not_fit_is_not_squeezed_in(demands: list[Demand], machine: tuple[Gpu, ...]) -> None:
    assert place(demands, machine, 0.9) is None


def test_alone_a_model_gets_the_whole_budget_and_its_longest_context() -> None:
    (one,) = placed(demand(QWEN_8B), on=gpus(1))

    assert (one.memory_fraction, one.context) == (0.9, 40960)
    assert one.estimates[0] is not None
    assert one.estimates[0].total_bytes == 72 * GIB


def test_memory_that_others_hold_is_not_planned_with() -> None:
    (one,) = placed(demand(QWEN_8B), on=(gpu(free_gib=40),))

    assert one.memory_fraction == 0.5


def test_a_context_left_open_is_as_large_as_fits() -> None:
    (one,) = placed(demand(QWEN_8B), on=gpus(1, total_gib=24))

    assert one.estimates[0] is not None
    assert 20000 < one.context == one.estimates[0].largest_context < 40960


def test_a_small_gpu_still_serves_a_small_context() -> None:
    (one,) = placed(demand(QWEN_8B), on=gpus(1, total_gib=21))

    assert 2048 <= one.context < 8192


def test_a_stated_context_is_kept() -> None:
    (one,) = placed(demand(QWEN_8B, context=1000), on=gpus(1))

    assert one.context == 1000


def test_what_is_left_is_shared_by_the_models_that_generate() -> None:
    found = placed(demand(QWEN_8B, "a"), demand(QWEN_8B, "b"), demand(BGE_M3), on=gpus(1))

    assert found[0].memory_fraction == found[1].memory_fraction
    assert found[2].memory_fraction == 0.064
    assert 0.898 <= sum(one.memory_fraction or 0 for one in found) <= 0.9


def test_engines_in_turn_share_one_place_and_the_hungriest_counts() -> None:
    turns = (need(3), need(5, EngineName.TRTLLM))
    (one,) = placed(demand(QWEN_8B, engines=turns), on=gpus(1, total_gib=24))

    first, second = one.estimates
    assert first is not None
    assert second is not None
    assert first.total_bytes == second.total_bytes
    assert first.kv_bytes - second.kv_bytes == 2 * GIB
    assert one.context == second.largest_context < first.largest_context


def test_a_stated_cache_is_kept_and_bounds_the_context() -> None:
    (one,) = placed(demand(QWEN_8B, kv_cache_bytes=2 * GIB), on=gpus(1))

    assert one.estimates[0] is not None
    assert one.estimates[0].kv_bytes == 2 * GIB
    assert one.context == one.estimates[0].largest_context == 13824
    assert one.memory_fraction == 0.254


def test_an_embedding_decoder_gets_room_for_some_inputs_and_no_more() -> None:
    (one,) = placed(demand(replace(QWEN_8B, task=Task.EMBED), context=4096), on=gpus(1))

    assert one.memory_fraction is not None
    assert one.memory_fraction < 0.4


def test_a_model_of_unknown_size_gets_a_gpu_to_itself_and_no_estimate() -> None:
    (one,) = placed(demand(UNKNOWN), on=gpus(1))

    assert (one.memory_fraction, one.context, one.estimates) == (0.9, 8192, (None,))


def test_packing_helps_where_spreading_does_not() -> None:
    """Two small models side by side leave a GPU free for the one of unknown size."""
    small = [demand(replace(BGE_M3, source=name)) for name in ("a", "b")]

    assert indexes(placed(*small, demand(UNKNOWN), on=gpus(2))) == [(0,), (0,), (1,)]


def test_unequal_gpus_named_together_give_the_same_part_of_each() -> None:
    (one,) = placed(demand(QWEN_8B, gpus=(0, 1)), on=(gpu(0, total_gib=24), gpu(1, total_gib=48)))

    assert one.estimates[0] is not None
    assert one.memory_fraction == 0.9
    assert one.estimates[0].total_bytes <= 0.9 * 24 * GIB


@pytest.mark.parametrize(
    ("info", "expected"),
    [(QWEN_8B, (1, 2, 4, 8, 16)), (BGE_M3, (1,)), (replace(QWEN_8B, heads=14, kv_heads=2), (1, 2)), (TINY, (1, 2, 4))],
)
def test_a_model_is_cut_only_where_its_heads_allow(info: ModelInfo, expected: tuple[int, ...]) -> None:
    assert counts(demand(info)) == expected
    assert divides(info, 3) is False or info is BGE_M3


def test_on_the_cpu_the_machines_memory_counts() -> None:
    found = place_on_cpu([demand(QWEN_8B), demand(TINY)], 20 * GIB)

    assert found is not None
    assert [(one.gpus, one.memory_fraction, one.context) for one in found] == [((), None, 1536), ((), None, 2048)]
    assert found[1].estimates[0] is not None
    assert found[1].estimates[0].kv_bytes == 256 * 2**20
    assert place_on_cpu([demand(QWEN_8B), demand(TINY)], 15 * GIB) is None


@pytest.mark.parametrize(
    ("fields", "context", "kv_bytes"),
    [
        ({"context": 1024}, 1024, 256 * 2**20),
        ({"kv_cache_bytes": 64 * 2**20}, 256, 64 * 2**20),
        ({"context": 16384}, 16384, 2_543_072_742),
    ],
)
def test_on_the_cpu_a_stated_context_or_cache_is_kept(fields: dict[str, Any], context: int, kv_bytes: int) -> None:
    found = place_on_cpu([demand(QWEN_8B, **fields)], 64 * GIB)

    assert found is not None
    assert found[0].context == context
    assert found[0].estimates[0] is not None
    assert found[0].estimates[0].kv_bytes == kv_bytes


MODELS = st.builds(
    ModelInfo,
    source=st.just("x"),
    layers=st.one_of(st.none(), st.integers(1, 100)),
    heads=st.one_of(st.none(), st.sampled_from([1, 7, 8, 14, 32, 64])),
    kv_heads=st.one_of(st.none(), st.sampled_from([1, 2, 8])),
    head_dim=st.one_of(st.none(), st.sampled_from([64, 128])),
    max_position=st.one_of(st.none(), st.integers(1, 200_000)),
    weights_bytes=st.one_of(st.none(), st.integers(1, 200 * GIB)),
    encoder_only=st.booleans(),
    task=st.sampled_from(Task),
)
DEMANDS = st.builds(
    Demand,
    name=st.just(""),
    info=MODELS,
    engines=st.lists(st.builds(need, st.floats(0, 8)), min_size=1, max_size=3).map(tuple),
    gpus=st.one_of(st.none(), st.integers(1, 8), st.lists(st.integers(0, 8), min_size=1, unique=True).map(tuple)),
    context=st.one_of(st.none(), st.integers(1, 100_000)),
    kv_cache_bytes=st.one_of(st.none(), st.integers(1, 40 * GIB)),
)
MACHINES = st.lists(
    st.builds(
        lambda total, used, mig: gpu(total_gib=total, free_gib=max(total - used, 0), mig=mig),
        st.sampled_from([0.5, 16, 24, 79.65, 141]),
        st.floats(0, 100),
        st.booleans(),
    ),
    max_size=8,
).map(lambda found: tuple(replace(one, index=index, uuid=f"GPU-{index}") for index, one in enumerate(found)))


@settings(max_examples=150, deadline=None)
@given(st.lists(DEMANDS, min_size=1, max_size=5), MACHINES, st.floats(0.1, 1.0))
def test_no_gpu_is_ever_over_committed(demands: list[Demand], machine: tuple[Gpu, ...], fraction: float) -> None:
    demands = [replace(demand, name=str(number)) for number, demand in enumerate(demands)]
    found = place(demands, machine, fraction)
    assert found == place(demands, machine, fraction), "the same question has the same answer"

    dealt: Counter[int] = Counter()
    for one in found or ():
        assert one.gpus
        assert not any(card.mig for card in one.gpus)
        for card in one.gpus:
            dealt[card.index] += round((one.memory_fraction or 0) * 1000)
        least = min(card.memory_total_bytes for card in one.gpus)
        for estimate in one.estimates:
            assert estimate is None or estimate.total_bytes <= round((one.memory_fraction or 0) * 1000) * least // 1000
    for card in machine:
        total = card.memory_total_bytes
        assert dealt[card.index] * total / 1000 <= min(fraction * total + 1, card.memory_free_bytes)


@settings(max_examples=60, deadline=None)
@given(st.lists(DEMANDS, max_size=4), st.integers(0, 200 * GIB))
def test_the_machines_memory_is_never_over_committed(demands: list[Demand], available: int) -> None:
    for found in filter(None, [place_on_cpu(demands, available)]):
        taken = [max((e.total_bytes for e in one.estimates if e), default=0) for one in found]
        assert sum(taken) <= available
