"""How the engines of a model share its memory: in turns (cold), side by side (hot), on GPUs or on the CPU."""

from dataclasses import replace

import pytest

from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import SLEEPER_BYTES, Allocation, Entry, allot
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import wanted_models
from berth.engines.registry import ENGINES
from berth.errors import PlacementError
from berth.host.gpus import Occupant
from berth.plan import EngineName, Standby
from tests.fakes.machine import ALL_ENGINES, CPU_ENGINES, GIB, gpu, gpus, surroundings

VLLM, SGLANG, SIM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.SIM))
REMOTE = EngineSpec(engine=EngineName.REMOTE, url="http://127.0.0.1:9100")
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", engines=(VLLM, SGLANG))
EMBED = ModelSpec(name="embed", source="BAAI/bge-m3")


def allotted(*specs: ModelSpec, here: HostInfo) -> dict[Entry, Allocation]:
    settings = Settings(models=specs)
    return allot(wanted_models(settings, here), settings, here, ENGINES)


def places(found: dict[Entry, Allocation]) -> dict[Entry, tuple[int, ...]]:
    return {entry: tuple(gpu.index for gpu in one.gpus) for entry, one in found.items()}


def test_a_cold_standby_has_the_place_of_the_first() -> None:
    found = allotted(CHAT, here=surroundings(*gpus(2)))

    first, second = found["chat", 0], found["chat", 1]
    assert places(found) == {("chat", 0): (0,), ("chat", 1): (0,)}
    assert (first.memory_fraction, first.context) == (second.memory_fraction, second.context) == (0.9, 40960)
    assert first.memory is not None
    assert second.memory is not None
    assert first.memory.overhead_bytes < second.memory.overhead_bytes


def test_hot_engines_divide_the_memory_of_one_gpu() -> None:
    found = allotted(replace(CHAT, standby=Standby.HOT), here=surroundings(*gpus(1)))

    fractions = [one.memory_fraction or 0 for one in found.values()]
    assert places(found) == {("chat", 0): (0,), ("chat", 1): (0,)}
    assert sum(fractions) <= 0.9
    assert min(fractions) > 0.4


def test_hot_engines_get_a_gpu_each_where_there_are_two() -> None:
    found = allotted(replace(CHAT, standby=Standby.HOT), here=surroundings(*gpus(2)))

    assert sorted(places(found).values()) == [(0,), (1,)]


def test_engines_that_load_nothing_get_nothing() -> None:
    mixed = replace(CHAT, engines=(REMOTE, VLLM, SIM))
    simulated = ModelSpec(name="sim", source="x", engines=(SIM,))

    assert set(allotted(mixed, simulated, here=surroundings(*gpus(1)))) == {("chat", 1)}


def test_a_cpu_build_gets_the_machines_memory_even_beside_a_gpu() -> None:
    here = surroundings(gpu(), installed=CPU_ENGINES | {EngineName.SGLANG: ALL_ENGINES[EngineName.SGLANG]})

    found = allotted(CHAT, here=here)

    assert places(found) == {("chat", 0): (), ("chat", 1): (0,)}
    assert found["chat", 0].memory_fraction is None
    assert found["chat", 0].memory is not None
    assert found["chat", 0].memory.kv_bytes == 256 * 2**20


def test_the_same_model_twice_is_two_models() -> None:
    found = allotted(EMBED, replace(EMBED, name="other"), here=surroundings(*gpus(1)))

    assert set(found) == {("embed", 0), ("other", 0)}


def test_too_little_gpu_memory_is_told_with_the_sum() -> None:
    with pytest.raises(PlacementError, match=r"DOES NOT FIT: on 1 GPU .* KV cache"):
        allotted(CHAT, here=surroundings(*gpus(1, total_gib=16)))


def test_who_fills_the_gpus_is_told() -> None:
    busy = (Occupant(pid=4711, name="python", used_bytes=70 * GIB), Occupant(pid=8, name="", used_bytes=None))
    here = surroundings(gpu(free_gib=9), occupants={0: busy})

    with pytest.raises(PlacementError, match=r"in use 71.0 GiB of 80.0 GiB: python \(pid 4711, 70.0 GiB\), a process "):
        allotted(CHAT, here=here)


def test_hot_engines_that_do_not_fit_are_told_apart() -> None:
    with pytest.raises(PlacementError, match=r"chat \(2: sglang\)"):
        allotted(replace(CHAT, standby=Standby.HOT), here=surroundings(*gpus(1, total_gib=24)))


def test_too_little_memory_of_the_machine_is_told() -> None:
    here = surroundings(installed=CPU_ENGINES, memory_gib=8)

    with pytest.raises(PlacementError, match=r"do not fit into memory: 8\.0 GiB"):
        allotted(replace(CHAT, engines=(VLLM,)), here=here)
    assert here.memory_available_bytes == 8 * GIB


def test_a_warm_standby_has_the_place_of_the_first_less_what_it_keeps_asleep() -> None:
    cold = allotted(CHAT, here=surroundings(*gpus(1)))
    warm = allotted(replace(CHAT, standby=Standby.WARM), here=surroundings(*gpus(1)))

    assert places(warm) == {("chat", 0): (0,), ("chat", 1): (0,)}
    assert [one.memory_fraction for one in cold.values()] == [0.9, 0.9]
    assert [one.memory_fraction for one in warm.values()] == [0.875, 0.875]
    for entry, one in warm.items():
        before = cold[entry].memory
        assert one.memory
        assert before
        assert before.kv_bytes - one.memory.kv_bytes == SLEEPER_BYTES


def test_what_does_not_fit_beside_a_sleeper_is_refused_with_the_sum() -> None:
    here = surroundings(*gpus(1, total_gib=23))
    assert allotted(CHAT, here=here)
    with pytest.raises(PlacementError, match=r"overhead 4\.0 GiB \+ engines asleep 2\.0 GiB"):
        allotted(replace(CHAT, standby=Standby.WARM), here=here)


def test_on_the_cpu_a_sleeper_keeps_all_that_it_has() -> None:
    pair = replace(CHAT, source="/models/tiny", engines=(VLLM, VLLM), standby=Standby.WARM)
    found = allotted(pair, here=surroundings(installed=CPU_ENGINES))
    one = found["chat", 0].memory
    assert one
    assert len(found) == 2
    with pytest.raises(PlacementError, match="do not fit into memory"):
        allotted(pair, here=surroundings(installed=CPU_ENGINES, memory_gib=1.5 * one.total_bytes / GIB))
