"""Placement: tables for the rules, and a property for the one that must never break."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.boot.checkpoints.cache_layers import CacheLayer, LayerKind
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.planner.fit.gpu_request import Allocation, GpuRequest, counts, divides
from berth.boot.planner.fit.memory import CacheOptions
from berth.boot.planner.fit.placement import CPU_SEQUENCES, gpu_kinds, place, place_on_cpu
from berth.plan import EngineName, Gpu, MeasuredAs, MemoryEstimate, Task
from berth.records.measured import Measurement, gpu_kind
from tests.fakes.machine import BGE_M3, GIB, LLAMA_70B, QWEN_8B, TINY, FakeEngine, gpu, gpus, instance

UNKNOWN = ModelInfo(source="x/unknown")


def request(info: ModelInfo, name: str = "", **fields: Any) -> GpuRequest:
    return GpuRequest(**{"name": name or info.source, "info": info, "engines": (FakeEngine(),), **fields})


def placed(*requests: GpuRequest, on: tuple[Gpu, ...], fraction: float = 0.9) -> tuple[Allocation, ...]:
    found = place(requests, on, fraction)
    assert found is not None
    return found


def estimates(allocation: Allocation) -> list[MemoryEstimate]:
    """One per engine, of a model of known size."""
    return [one for engine in allocation.request.engines if (one := allocation.memory(engine))]


def indexes(found: tuple[Allocation, ...]) -> list[tuple[int, ...]]:
    return [tuple(card.index for card in one.gpus) for one in found]


@pytest.mark.parametrize(
    ("requests", "machine", "expected"),
    [
        ([request(QWEN_8B)], gpus(1), [(0,)]),
        ([request(QWEN_8B)], gpus(8), [(0,)]),
        ([request(LLAMA_70B)], gpus(2), [(0, 1)]),
        ([request(LLAMA_70B)], gpus(8), [(0, 1)]),
        ([request(LLAMA_70B, context=131072)], gpus(8), [(0, 1, 2, 3)]),
        ([request(LLAMA_70B)], gpus(8, total_gib=24), [(0, 1, 2, 3, 4, 5, 6, 7)]),
        ([request(QWEN_8B), request(BGE_M3)], gpus(1), [(0,), (0,)]),
        ([request(BGE_M3), request(QWEN_8B)], gpus(2), [(1,), (0,)]),
        ([request(QWEN_8B, "a"), request(QWEN_8B, "b"), request(QWEN_8B, "c")], gpus(2), [(0,), (1,), (0,)]),
        ([request(QWEN_8B), request(LLAMA_70B)], gpus(4), [(2,), (0, 1)]),
        ([request(QWEN_8B, gpus=(3,))], gpus(4), [(3,)]),
        ([request(QWEN_8B, gpus=("GPU-00000002", 0))], gpus(4), [(0, 2)]),
        ([request(QWEN_8B, gpus=4)], gpus(4), [(0, 1, 2, 3)]),
        ([request(QWEN_8B, "any"), request(QWEN_8B, "tied", gpus=(0,))], gpus(2), [(1,), (0,)]),
        ([request(QWEN_8B)], (gpu(0, mig=True), gpu(1)), [(1,)]),
        ([request(QWEN_8B)], (gpu(0, total_gib=24), gpu(1)), [(1,)]),
        ([request(QWEN_8B)], (instance(0, total_gib=10), instance(1, total_gib=40)), [(101,)]),
        (
            [request(QWEN_8B, "a"), request(QWEN_8B, "b")],
            (instance(0, total_gib=40), instance(1, total_gib=40)),
            [(100,), (101,)],
        ),
        (
            [request(QWEN_8B, gpus=("MIG-00000000-1",))],
            (instance(0, total_gib=40), instance(1, total_gib=40)),
            [(101,)],
        ),
        ([request(QWEN_8B)], (gpu(0, free_gib=10), gpu(1)), [(1,)]),
        ([request(UNKNOWN), request(BGE_M3)], gpus(2), [(1,), (0,)]),
        ([], gpus(1), []),
        ([], (), []),
    ],
)
def test_places_models_on_gpus(
    requests: list[GpuRequest], machine: tuple[Gpu, ...], expected: list[tuple[int, ...]]
) -> None:
    assert indexes(placed(*requests, on=machine)) == expected


@pytest.mark.parametrize(
    ("requests", "machine"),
    [
        ([request(QWEN_8B)], ()),
        ([request(LLAMA_70B)], gpus(1)),
        ([request(QWEN_8B)], gpus(8, total_gib=1)),
        ([request(QWEN_8B, gpus=2)], gpus(1)),
        ([request(QWEN_8B, gpus=(4,))], gpus(2)),
        ([request(QWEN_8B)], (gpu(mig=True),)),
        ([request(QWEN_8B, context=40960, kv_cache_bytes=70 * GIB)], gpus(1)),
        ([request(LLAMA_70B, gpus=2)], (gpu(0), gpu(1, total_gib=94))),
        ([request(QWEN_8B)], (instance(0, total_gib=12), instance(1, total_gib=12))),
        ([request(QWEN_8B, gpus=2)], (instance(0, total_gib=40), instance(1, total_gib=40))),
        ([request(UNKNOWN), request(BGE_M3)], gpus(1)),
        ([request(QWEN_8B)], (replace(gpu(), memory_total_bytes=0, memory_free_bytes=0),)),
    ],
)
def test_no_placement_where_models_do_not_fit(requests: list[GpuRequest], machine: tuple[Gpu, ...]) -> None:
    assert place(requests, machine, 0.9) is None


def test_single_model_gets_the_whole_budget_and_its_longest_context() -> None:
    (one,) = placed(request(QWEN_8B), on=gpus(1))

    assert (one.memory_fraction, one.context) == (0.9, 40960)
    assert estimates(one)[0].total_bytes == 72 * GIB


def test_plans_only_with_free_memory() -> None:
    (one,) = placed(request(QWEN_8B), on=(gpu(free_gib=40),))

    assert one.memory_fraction == 0.5


def test_unstated_context_is_the_longest_that_fits() -> None:
    (one,) = placed(request(QWEN_8B), on=gpus(1, total_gib=24))

    assert 20000 < one.context == estimates(one)[0].largest_context < 40960


def test_small_gpu_gets_a_small_context() -> None:
    (one,) = placed(request(QWEN_8B), on=gpus(1, total_gib=21))

    assert 2048 <= one.context < 8192


def test_keeps_a_stated_context() -> None:
    (one,) = placed(request(QWEN_8B, context=1000), on=gpus(1))

    assert one.context == 1000


def test_divides_the_rest_among_generating_models() -> None:
    found = placed(request(QWEN_8B, "a"), request(QWEN_8B, "b"), request(BGE_M3), on=gpus(1))

    assert found[0].memory_fraction == found[1].memory_fraction
    assert found[2].memory_fraction == 0.064
    assert 0.898 <= sum(one.memory_fraction or 0 for one in found) <= 0.9


def test_engines_share_an_allocation_sized_for_the_largest_overhead() -> None:
    engines = (FakeEngine(3), FakeEngine(5))
    (one,) = placed(request(QWEN_8B, engines=engines), on=gpus(1, total_gib=24))

    first, second = estimates(one)
    assert first.total_bytes == second.total_bytes
    assert first.kv_bytes - second.kv_bytes == 2 * GIB
    assert one.context == second.largest_context < first.largest_context


def test_stated_cache_limits_the_context() -> None:
    (one,) = placed(request(QWEN_8B, kv_cache_bytes=2 * GIB), on=gpus(1))

    assert estimates(one)[0].kv_bytes == 2 * GIB
    assert one.context == estimates(one)[0].largest_context == 14336
    assert one.memory_fraction == 0.254


def test_pooling_decoder_gets_cache_for_a_few_inputs() -> None:
    (one,) = placed(request(replace(QWEN_8B, task=Task.EMBED), context=4096), on=gpus(1))

    assert one.memory_fraction is not None
    assert one.memory_fraction < 0.4


def test_model_of_unknown_size_gets_a_gpu_to_itself() -> None:
    (one,) = placed(request(UNKNOWN), on=gpus(1))

    assert (one.memory_fraction, one.context, estimates(one)) == (0.9, 8192, [])


def test_packs_models_where_spreading_does_not_fit() -> None:
    """Two small models side by side leave a GPU free for the one of unknown size."""
    small = [request(replace(BGE_M3, source=name)) for name in ("a", "b")]

    assert indexes(placed(*small, request(UNKNOWN), on=gpus(2))) == [(0,), (0,), (1,)]


def test_unequal_gpus_give_the_same_share() -> None:
    (one,) = placed(request(QWEN_8B, gpus=(0, 1)), on=(gpu(0, total_gib=24), gpu(1, total_gib=48)))

    assert one.memory_fraction == 0.9
    assert estimates(one)[0].total_bytes <= 0.9 * 24 * GIB


@pytest.mark.parametrize(
    ("info", "expected"),
    [(QWEN_8B, (1, 2, 4, 8, 16)), (BGE_M3, (1,)), (replace(QWEN_8B, heads=14, kv_heads=2), (1, 2)), (TINY, (1, 2, 4))],
)
def test_splits_a_model_only_by_its_heads(info: ModelInfo, expected: tuple[int, ...]) -> None:
    assert counts(request(info)) == expected
    assert divides(info, 3) is False or info is BGE_M3


def test_less_of_a_memory_shared_with_the_host_is_used() -> None:
    own, shared = (placed(request(QWEN_8B), on=(replace(gpu(), unified=unified),)) for unified in (False, True))
    assert (own[0].share, shared[0].share) == (900, 850)


def test_placement_on_the_cpu_counts_ram() -> None:
    found = place_on_cpu([request(QWEN_8B), request(TINY)], 20 * GIB)

    assert found is not None
    assert [(one.gpus, one.memory_fraction, one.context) for one in found] == [((), None, 10752), ((), None, 2048)]
    assert estimates(found[1])[0].kv_bytes == CPU_SEQUENCES * math.ceil(2048 * 512 / 0.99)
    assert place_on_cpu([request(QWEN_8B), request(TINY)], 15 * GIB) is None


@pytest.mark.parametrize(
    ("available_gib", "context"), [(15.6, 2048), (18, 5120), (20, 19712), (24, 32768), (99, 32768)]
)
def test_context_on_the_cpu_grows_with_what_the_weights_leave(available_gib: float, context: int) -> None:
    found = place_on_cpu([request(QWEN_8B)], int(available_gib * GIB))

    assert found is not None
    assert found[0].context == context


@pytest.mark.parametrize(
    ("fields", "context", "kv_bytes"),
    [
        ({"context": 1024}, 1024, 8 * math.ceil(1024 * 147456 / 0.99)),
        ({"kv_cache_bytes": 64 * 2**20}, 256, 64 * 2**20),
        ({"context": 40_960}, 40_960, 8 * math.ceil(40_960 * 147456 / 0.99)),
    ],
)
def test_keeps_a_stated_context_or_cache_on_the_cpu(fields: dict[str, Any], context: int, kv_bytes: int) -> None:
    found = place_on_cpu([request(QWEN_8B, **fields)], 99 * GIB)

    assert found is not None
    assert found[0].context == context
    assert estimates(found[0])[0].kv_bytes == kv_bytes


def measured(*cards: Gpu, overhead_gib: float = 1.5, kv_share: float = 1.0, engine: str = "vllm") -> Measurement:
    """Of QWEN_8B, at a start with 20,000 tokens; `kv_share`: the cache, relative to what the layout says."""
    kind = {"version": "1", "gpu_kind": gpu_kind(cards), "gpus": len(cards), "model": "m", "arguments": ""}
    return Measurement(
        of=MeasuredAs(engine=EngineName(engine), **kind),  # type: ignore[arg-type] # by its names
        at=1,
        weights_bytes=16 * GIB,
        overhead_bytes=int(overhead_gib * GIB),
        kv_bytes=int(20_000 * 147456 * kv_share),
        kv_tokens=20_000,
        context=20_000,
    )


def test_what_was_measured_wins_over_the_estimate() -> None:
    card = gpu(total_gib=24)
    (plain,), (known,) = (
        placed(request(QWEN_8B, measured=found), on=(card,)) for found in ((), (measured(card, kv_share=0.5),))
    )

    memory = estimates(known)[0]
    assert (memory.weights_bytes, memory.overhead_bytes, memory.measured) == (16 * GIB, int(1.5 * GIB), 1)
    assert memory.estimated_weights_bytes == QWEN_8B.weights_bytes
    assert (memory.estimated_overhead_bytes, estimates(plain)[0].measured) == (3 * GIB, 0)
    assert memory.kv_bytes_per_token == 147456 // 2
    assert plain.context < known.context == 40_960


@pytest.mark.parametrize("other", [gpu(total_gib=24), gpu(1, total_gib=32)])
def test_a_measurement_counts_for_its_own_kind_and_number_of_gpus(other: Gpu) -> None:
    cards = (gpu(total_gib=24), gpu(1, total_gib=24)) if other.index == 0 else (other,)
    (one,) = placed(request(QWEN_8B, measured=(measured(*cards),)), on=(gpu(total_gib=24),))

    assert estimates(one)[0].measured == 0


def test_a_measured_cache_like_the_layout_leaves_the_layout_alone() -> None:
    card = gpu(total_gib=24)
    (one,) = placed(request(QWEN_8B, measured=(measured(card, kv_share=1.01),)), on=(card,))

    assert estimates(one)[0].kv_bytes_per_token == 147456


@pytest.mark.parametrize(
    ("info", "fields", "total_gib", "expected"),
    [
        (QWEN_8B, {}, 80, False),  # all of the model's context fits
        (QWEN_8B, {}, 24, True),  # the estimated overhead decides
        (QWEN_8B, {"context": 8192}, 24, False),
        (QWEN_8B, {"measured": (measured(gpu(total_gib=24)),)}, 24, False),
        (replace(QWEN_8B, long_rope=True), {}, 24, False),
        (replace(QWEN_8B, max_position=2**21), {}, 24, False),
        (replace(QWEN_8B, guessed_weights=True), {}, 80, True),
        (replace(QWEN_8B, cache_layers=()), {}, 80, True),
        (UNKNOWN, {}, 80, True),
        (BGE_M3, {}, 80, False),
    ],
)
def test_a_context_that_is_only_a_guess_is_left_to_the_engine(
    info: ModelInfo, fields: dict[str, Any], total_gib: float, expected: bool
) -> None:
    (one,) = placed(request(info, **fields), on=(gpu(total_gib=total_gib),))

    assert one.context_is_a_guess(one.request.engines[0]) is expected


SLIDING = replace(QWEN_8B, cache_layers=(CacheLayer(kind=LayerKind.SLIDING, kv_heads=8, dims=256, window=1024),) * 36)


def test_the_card_decides_how_much_is_in_flight() -> None:
    """Large cards get larger batches from vLLM, whatever else is in the box."""
    (small,), (large,) = (
        placed(request(SLIDING, gpus=(0,)), on=(gpu(0, total_gib=total), gpu(1, total_gib=80))) for total in (24, 80)
    )
    stated_batch = (CacheOptions(batch_tokens=8192),)
    (stated,) = placed(request(SLIDING, gpus=(0,), cache=stated_batch), on=(gpu(0, total_gib=24),))

    in_flight = [estimates(one)[0].kv_bytes_per_request // (16 * 36 * 4096) for one in (small, large, stated)]
    assert in_flight == [-(-(1023 + 2 * tokens) // 16) + 1 for tokens in (2048, 8192, 8192)]


LAYERS = st.builds(
    CacheLayer,
    kind=st.sampled_from(LayerKind),
    kv_heads=st.integers(1, 8),
    dims=st.sampled_from([128, 256, 1024]),
    window=st.integers(1, 10_000),
    conv_width=st.integers(1, 10_000),
    conv_tokens=st.integers(1, 3),
    state_elements=st.integers(1, 10**6),
)
MODELS = st.builds(
    ModelInfo,
    source=st.just("x"),
    layers=st.one_of(st.none(), st.integers(1, 100)),
    cache_layers=st.lists(LAYERS, max_size=12).map(tuple),
    heads=st.one_of(st.none(), st.sampled_from([1, 7, 8, 14, 32, 64])),
    kv_heads=st.one_of(st.none(), st.sampled_from([1, 2, 8])),
    head_dim=st.one_of(st.none(), st.sampled_from([64, 128])),
    max_position=st.one_of(st.none(), st.integers(1, 200_000)),
    weights_bytes=st.one_of(st.none(), st.integers(1, 200 * GIB)),
    encoder_only=st.booleans(),
    task=st.sampled_from(Task),
)
REQUESTS = st.builds(
    GpuRequest,
    name=st.just(""),
    info=MODELS,
    engines=st.lists(st.builds(FakeEngine, st.floats(0, 8)), min_size=1, max_size=3).map(tuple),
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
@given(st.lists(REQUESTS, min_size=1, max_size=5), MACHINES, st.floats(0.1, 1.0))
def test_never_overcommits_a_gpu(requests: list[GpuRequest], machine: tuple[Gpu, ...], fraction: float) -> None:
    requests = [replace(request, name=str(number)) for number, request in enumerate(requests)]
    found = place(requests, machine, fraction)
    assert found == place(requests, machine, fraction), "the same question has the same answer"

    dealt: Counter[int] = Counter()
    for one in found or ():
        assert one.gpus
        assert not any(card.mig for card in one.gpus)
        for card in one.gpus:
            dealt[card.index] += round((one.memory_fraction or 0) * 1000)
        least = min(card.memory_total_bytes for card in one.gpus)
        for estimate in estimates(one):
            assert estimate.total_bytes <= round((one.memory_fraction or 0) * 1000) * least // 1000
    for card in machine:
        total = card.memory_total_bytes
        assert dealt[card.index] * total / 1000 <= min(fraction * total + 1, card.memory_free_bytes)


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUESTS, max_size=4), st.integers(0, 200 * GIB))
def test_never_overcommits_ram(requests: list[GpuRequest], available: int) -> None:
    for found in filter(None, [place_on_cpu(requests, available)]):
        taken = [max((e.total_bytes for e in estimates(one)), default=0) for one in found]
        assert sum(taken) <= available


def test_gpus_of_one_kind_work_together_unless_the_user_names_them() -> None:
    machine = (gpu(0), gpu(1, total_gib=24), gpu(2))

    assert gpu_kinds(request(QWEN_8B), machine) == [[machine[0], machine[2]], [machine[1]]]
    assert gpu_kinds(request(QWEN_8B, gpus=(1, 2)), machine) == [[machine[1], machine[2]]]
    assert gpu_kinds(request(QWEN_8B, gpus=(7,)), machine) == []


ON_REQUEST = {"on_request": True}


def test_models_on_request_that_fit_together_are_placed_as_others() -> None:
    always = placed(request(QWEN_8B, "a"), request(QWEN_8B, "b"), on=gpus(1))
    on_request = placed(request(QWEN_8B, "a", **ON_REQUEST), request(QWEN_8B, "b", **ON_REQUEST), on=gpus(1))
    assert [one.share for one in on_request] == [one.share for one in always]


def test_models_on_request_share_a_gpu_that_holds_one() -> None:
    found = placed(request(QWEN_8B, "a", **ON_REQUEST), request(QWEN_8B, "b", **ON_REQUEST), on=gpus(1, total_gib=24))
    assert indexes(found) == [(0,), (0,)]
    assert [one.share for one in found] == [900, 900]  # all of it, when it is loaded


def test_always_loaded_model_keeps_its_room_and_its_part_of_the_rest() -> None:
    chat, a, b = placed(
        request(QWEN_8B, "chat"),
        request(QWEN_8B, "a", **ON_REQUEST),
        request(QWEN_8B, "b", **ON_REQUEST),
        on=gpus(1, total_gib=48),
    )
    assert (a.share, b.share) == (900 - chat.share, 900 - chat.share)
    assert abs(chat.share - a.share) <= 1


def test_those_that_fit_next_to_each_other_are_planned_together() -> None:
    small = [request(QWEN_8B, name, kv_cache_bytes=GIB, **ON_REQUEST) for name in ("a", "b", "c")]
    a, b, c = placed(*small, on=gpus(1, total_gib=48))
    assert a.share + b.share <= 900 < a.share + b.share + c.share


def test_models_on_request_are_spread_before_they_share() -> None:
    four = [request(QWEN_8B, name, **ON_REQUEST) for name in ("a", "b", "c", "d")]
    found = placed(*four, on=gpus(2, total_gib=24))
    assert sorted(indexes(found)) == [(0,), (0,), (1,), (1,)]


def test_model_on_request_must_fit_next_to_those_that_are_always_loaded() -> None:
    pair = [request(QWEN_8B, "chat"), request(QWEN_8B, "a", **ON_REQUEST)]
    assert place(pair, gpus(1, total_gib=24), 0.9) is None


def test_engines_of_one_model_do_not_share() -> None:
    """As with `standby: hot`, where all of them run at once."""
    entries = [request(QWEN_8B, f"a{number}", entries=(("a", number),), **ON_REQUEST) for number in range(2)]
    assert place(entries, gpus(1, total_gib=24), 0.9) is None


def test_models_on_request_share_the_ram() -> None:
    pair = [request(QWEN_8B, "a", cpu=True), request(QWEN_8B, "b", cpu=True)]
    assert place_on_cpu(pair, 24 * GIB) is None
    assert place_on_cpu([replace(one, on_request=True) for one in pair], 24 * GIB) is not None


@settings(max_examples=60, deadline=None)
@given(
    always=st.lists(st.sampled_from([QWEN_8B, BGE_M3]), max_size=2),
    on_request=st.lists(st.sampled_from([QWEN_8B, BGE_M3, LLAMA_70B]), min_size=1, max_size=4),
    count=st.integers(1, 4),
    total_gib=st.sampled_from([24, 48, 80]),
)
def test_each_model_on_request_fits_next_to_the_others(
    always: list[ModelInfo], on_request: list[ModelInfo], count: int, total_gib: int
) -> None:
    requests = [request(info, f"always-{number}") for number, info in enumerate(always)]
    requests += [request(info, f"{number}", **ON_REQUEST) for number, info in enumerate(on_request)]
    found = place(requests, gpus(count, total_gib=total_gib), 0.9) or ()
    kept = [one for one in found if not one.request.on_request]
    for one in found:
        taken = sum((Counter(each.taken) for each in {id(x): x for x in (*kept, one)}.values()), Counter[int]())
        assert all(share <= 900 for share in taken.values())
        assert all(estimate.kv_bytes >= 0 for estimate in estimates(one))


def test_models_that_may_sleep_leave_what_the_others_keep_asleep() -> None:
    names = {"sleeps": True, **ON_REQUEST}
    a, b = placed(request(QWEN_8B, "a", **names), request(QWEN_8B, "b", **names), on=gpus(1, total_gib=24))
    assert (a.share, b.share) == (900 - 84, 900 - 84)  # 2 of 24 GiB
    a, c = placed(request(QWEN_8B, "a", **names), request(QWEN_8B, "c", **ON_REQUEST), on=gpus(1, total_gib=24))
    assert (a.share, c.share) == (900, 900 - 84)
    tight = {**names, "kv_cache_bytes": 3 * GIB}
    a, b = placed(request(QWEN_8B, "a", **tight), request(QWEN_8B, "b", **names), on=gpus(1, total_gib=24))
    assert a.share > 900 - 84  # what does not grow keeps what it needs
