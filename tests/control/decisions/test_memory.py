"""Whether the memory for a start is free, by readings of GPUs that are used in every way."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from berth.control.decisions.memory import EXCESS_BYTES, Proof, Result, judge, needed, shortage
from berth.control.decisions.records import Record
from berth.plan import EngineName, Gpu, Launch, MemoryEstimate
from berth.state import GpuState, ReplicaStatus
from tests.fakes.plans import make_replica

GIB = 2**30
TOTAL = 80 * GIB
POLL_S = 0.25
S = ReplicaStatus


def reading(*used_gib: float) -> tuple[GpuState, ...]:
    return tuple(
        GpuState(index=index, memory_used_bytes=int(used * GIB), memory_total_bytes=TOTAL)
        for index, used in enumerate(used_gib)
    )


@pytest.mark.parametrize(
    ("readings", "need_gib", "result"),
    [
        ([], 10, Result.UNSTEADY),
        ([()], 10, Result.UNREADABLE),
        ([reading(1)] * 2, 10, Result.UNSTEADY),
        ([reading(1)] * 3, 10, Result.FREE),
        ([reading(1)] * 3, 79, Result.FREE),
        ([reading(1)] * 3, 79.1, Result.SHORT),
        ([reading(60), reading(40), reading(1)], 70, Result.UNSTEADY),
        ([reading(1), reading(1), reading(60)], 70, Result.SHORT),
        ([reading(1), (), reading(1)], 70, Result.UNSTEADY),
        ([reading(70), reading(1), reading(1.01), reading(1.02)], 70, Result.FREE),
    ],
)
def test_free_is_what_is_free_and_steady(readings: list[tuple[GpuState, ...]], need_gib: float, result: Result) -> None:
    assert judge(readings, {0: int(need_gib * GIB)}).result is result


def test_each_gpu_counts() -> None:
    need = {0: 40 * GIB, 1: 40 * GIB}
    assert judge([reading(1, 1)] * 3, need).allows_start
    assert judge([reading(1, 60)] * 3, need) == Proof(result=Result.SHORT, missing={1: 20 * GIB})
    assert judge([reading(1)] * 3, need).result is Result.UNREADABLE


def slow_release(dice: random.Random) -> Callable[[float], float]:
    held, begins, lasts = dice.uniform(0, 79), dice.uniform(0, 3), dice.uniform(0.01, 8)
    return lambda t: held * min(max(1 - (t - begins) / lasts, 0), 1)


def plateaus(dice: random.Random) -> Callable[[float], float]:
    steps = sorted((dice.uniform(0, 9), dice.uniform(0, 79)) for _ in range(dice.randint(1, 4)))
    left = dice.choice([0.0, 0.0, dice.uniform(0, 60)])
    return lambda t: next((held for until, held in steps if t < until), left)


def leak(dice: random.Random) -> Callable[[float], float]:
    kept, rate = dice.uniform(0, 60), dice.choice([0.0, dice.uniform(0, 2)])
    return lambda t: kept + rate * t


def foreign(dice: random.Random) -> Callable[[float], float]:
    comes, goes, held = dice.uniform(0, 6), dice.uniform(0, 12), dice.uniform(0, 79)
    return lambda t: held if comes <= t < goes else 0.5


def test_nothing_starts_on_memory_that_is_not_free() -> None:
    """10,000 curves of use: what starts finds its memory, and what can start does so within three readings."""
    dice = random.Random(12)
    started = refused = late = 0
    for number in range(10_000):
        curve = (slow_release, plateaus, leak, foreign)[number % 4](dice)
        need_gib, offset = dice.uniform(1, 79), dice.uniform(0, POLL_S)
        readings: list[tuple[GpuState, ...]] = []
        fits = 0
        for step in range(40):
            used = curve(offset + step * POLL_S)
            readings = [*readings[-2:], reading(min(used, 80))]
            alike = len(readings) == 3 and abs(readings[0][0].memory_used_bytes - int(used * GIB)) <= 2**25
            fits = fits + 1 if alike and used + need_gib <= 79.9 else 0
            proof = judge(readings, {0: int(need_gib * GIB)})
            if proof.allows_start:
                assert used + need_gib <= 80.000001
                started += 1
                break
            late += fits > 2
        else:
            refused += 1
    assert started > 4_000
    assert refused > 1_000
    assert late == 0


GPU = Gpu(
    index=0,
    uuid="GPU-0",
    name="Fake",
    memory_total_bytes=TOTAL,
    memory_free_bytes=TOTAL,
    compute_capability="9.0",
)
MEMORY = MemoryEstimate(
    weights_bytes=10 * GIB, kv_bytes_per_token=1, kv_bytes=5 * GIB, overhead_bytes=4, largest_context=8
)


def record(engine: EngineName, *argv: str, status: ReplicaStatus = S.WAITING, **fields: object) -> Record:
    replica = replace(
        make_replica(launch=Launch(argv=("x", *argv))), engine=engine, gpus=(0,), memory=MEMORY, memory_fraction=0.5
    )
    return replace(Record(replica=replica, status=status, since=0), **fields)  # type: ignore[arg-type] # any field


@pytest.mark.parametrize(
    ("asked", "need"),
    [
        (record(EngineName.VLLM), 40 * GIB),
        (record(EngineName.VLLM, "--gpu-memory-utilization", "0.25"), 20 * GIB),
        (record(EngineName.SGLANG), 40 * GIB - EXCESS_BYTES),
        (record(EngineName.VLLM, status=S.ASLEEP), 15 * GIB),
        (record(EngineName.VLLM, status=S.ASLEEP, released={0: 12 * GIB}), 12 * GIB),
    ],
)
def test_a_start_needs_its_share_and_a_wake_what_was_released(asked: Record, need: int) -> None:
    assert needed(asked, [GPU]) == {0: need}


@pytest.mark.parametrize(
    ("asked", "gpu"),
    [
        (record(EngineName.VLLM), replace(GPU, unified=True)),
        (record(EngineName.VLLM), replace(GPU, index=1)),
        (record(EngineName.VLLM, "--gpu-memory-utilization", "much"), GPU),
    ],
)
def test_without_gpu_memory_of_its_own_there_is_nothing_to_prove(asked: Record, gpu: Gpu) -> None:
    assert needed(asked, [gpu]) == {}


def test_who_holds_it_is_named() -> None:
    need, proof = {0: 40 * GIB}, Proof(result=Result.SHORT, missing={0: 10 * GIB})
    text = shortage(need, proof, {0: ["chat-vllm (ready)"]}, {0: ["python3 (pid 42, 9.0 GiB)"]})
    assert text == (
        "GPU 0: 10.0 GiB of 40.0 GiB are not free; on it: chat-vllm (ready), NVML lists python3 (pid 42, 9.0 GiB)"
    )
    assert "nothing that is visible in this container" in shortage(need, proof, {}, {})
    assert shortage(need, Proof(result=Result.UNSTEADY), {}, {}) == "its GPU memory does not stop changing"
