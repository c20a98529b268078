"""How the engines of a model share its memory: in turns (cold), side by side (hot), on GPUs or on the CPU."""

from dataclasses import replace

import pytest

from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import allocate, memory_groups
from berth.boot.planner.fit.gpu_request import Allocation, Entry
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import resolve_models
from berth.engines.registry import ENGINES
from berth.errors import PlacementError
from berth.host.gpus import Occupant
from berth.plan import EngineName, MemoryEstimate, Standby
from berth.room import ASLEEP_BYTES
from tests.fakes.machine import ALL_ENGINES, CPU_ENGINES, GIB, gpu, gpus, host_info

VLLM, SGLANG, SIM = (EngineSpec(engine=name) for name in (EngineName.VLLM, EngineName.SGLANG, EngineName.SIM))
REMOTE = EngineSpec(engine=EngineName.REMOTE, url="http://127.0.0.1:9100")
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", engines=(VLLM, SGLANG))
EMBED = ModelSpec(name="embed", source="BAAI/bge-m3")


def allocated(*specs: ModelSpec, host: HostInfo) -> dict[Entry, Allocation]:
    settings = Settings(models=specs)
    return allocate(resolve_models(settings, host), settings, host, ENGINES)


def memory(allocation: Allocation, entry: EngineSpec) -> MemoryEstimate:
    found = allocation.memory(ENGINES[entry.engine])
    assert found is not None
    return found


def places(found: dict[Entry, Allocation]) -> dict[Entry, tuple[int, ...]]:
    return {entry: tuple(gpu.index for gpu in one.gpus) for entry, one in found.items()}


def test_cold_standby_shares_the_allocation_of_the_first() -> None:
    found = allocated(CHAT, host=host_info(*gpus(2)))

    first, second = found["chat", 0], found["chat", 1]
    assert places(found) == {("chat", 0): (0,), ("chat", 1): (0,)}
    assert (first.memory_fraction, first.context) == (second.memory_fraction, second.context) == (0.9, 40960)
    assert memory(first, VLLM).overhead_bytes < memory(second, SGLANG).overhead_bytes


def test_hot_engines_divide_one_gpu() -> None:
    found = allocated(replace(CHAT, standby=Standby.HOT), host=host_info(*gpus(1)))

    fractions = [one.memory_fraction or 0 for one in found.values()]
    assert places(found) == {("chat", 0): (0,), ("chat", 1): (0,)}
    assert sum(fractions) <= 0.9
    assert min(fractions) > 0.4


def test_hot_engines_get_a_gpu_each() -> None:
    found = allocated(replace(CHAT, standby=Standby.HOT), host=host_info(*gpus(2)))

    assert sorted(places(found).values()) == [(0,), (1,)]


def test_engines_without_a_model_get_no_allocation() -> None:
    mixed = replace(CHAT, engines=(REMOTE, VLLM, SIM))
    simulated = ModelSpec(name="sim", source="x", engines=(SIM,))

    assert set(allocated(mixed, simulated, host=host_info(*gpus(1)))) == {("chat", 1)}


def test_cpu_build_gets_ram_also_on_a_host_with_gpus() -> None:
    host = host_info(gpu(), installed=CPU_ENGINES | {EngineName.SGLANG: ALL_ENGINES[EngineName.SGLANG]})

    found = allocated(CHAT, host=host)

    assert places(found) == {("chat", 0): (), ("chat", 1): (0,)}
    assert found["chat", 0].memory_fraction is None
    assert found["chat", 0].context == 32_768


def test_same_source_under_two_names_is_two_models() -> None:
    found = allocated(EMBED, replace(EMBED, name="other"), host=host_info(*gpus(1)))

    assert set(found) == {("embed", 0), ("other", 0)}


def test_reports_too_little_gpu_memory_with_the_sum() -> None:
    with pytest.raises(PlacementError, match=r"DOES NOT FIT: on 1 GPU .* KV cache"):
        allocated(CHAT, host=host_info(*gpus(1, total_gib=16)))


def test_reports_the_processes_on_full_gpus() -> None:
    busy = (Occupant(pid=4711, name="python", used_bytes=70 * GIB), Occupant(pid=8, name="", used_bytes=None))
    host = host_info(gpu(free_gib=9), occupants={0: busy})

    with pytest.raises(PlacementError, match=r"in use 71.0 GiB of 80.0 GiB: python \(pid 4711, 70.0 GiB\), a process "):
        allocated(CHAT, host=host)


def test_reports_each_hot_engine_that_does_not_fit() -> None:
    with pytest.raises(PlacementError, match=r"chat \(2: sglang\)"):
        allocated(replace(CHAT, standby=Standby.HOT), host=host_info(*gpus(1, total_gib=24)))


def test_reports_too_little_ram() -> None:
    host = host_info(installed=CPU_ENGINES, memory_gib=8)

    with pytest.raises(PlacementError, match=r"do not fit into memory: 8\.0 GiB"):
        allocated(replace(CHAT, engines=(VLLM,)), host=host)
    assert host.memory_available_bytes == 8 * GIB


def test_warm_standby_leaves_memory_for_sleeping_engines() -> None:
    cold = allocated(CHAT, host=host_info(*gpus(1)))
    warm = allocated(replace(CHAT, standby=Standby.WARM), host=host_info(*gpus(1)))

    assert places(warm) == {("chat", 0): (0,), ("chat", 1): (0,)}
    assert [one.memory_fraction for one in cold.values()] == [0.9, 0.9]
    assert [one.memory_fraction for one in warm.values()] == [0.875, 0.875]
    for (name, number), engine in ((("chat", 0), VLLM), (("chat", 1), SGLANG)):
        before, after = (memory(found[name, number], engine) for found in (cold, warm))
        assert before.kv_bytes - after.kv_bytes == ASLEEP_BYTES


def test_reports_memory_of_sleeping_engines_in_the_sum() -> None:
    host = host_info(*gpus(1, total_gib=23))
    assert allocated(CHAT, host=host)
    with pytest.raises(PlacementError, match=r"overhead 4\.0 GiB \+ engines asleep 2\.0 GiB"):
        allocated(replace(CHAT, standby=Standby.WARM), host=host)


def test_sleeping_engine_on_the_cpu_keeps_its_memory() -> None:
    pair = replace(CHAT, source="/models/tiny", engines=(VLLM, VLLM), standby=Standby.WARM)
    found = allocated(pair, host=host_info(installed=CPU_ENGINES))
    one = memory(found["chat", 0], VLLM)
    assert len(found) == 2
    with pytest.raises(PlacementError, match="do not fit into memory"):
        allocated(pair, host=host_info(installed=CPU_ENGINES, memory_gib=1.2 * one.weights_bytes / GIB))


@pytest.mark.parametrize(
    ("standby", "groups"), [(Standby.HOT, [[0], [1]]), (Standby.WARM, [[0, 1]]), (Standby.COLD, [[0, 1]])]
)
def test_groups_engines_by_shared_memory(standby: Standby, groups: list[list[int]]) -> None:
    host = host_info(gpu())
    [model] = resolve_models(Settings(models=(replace(CHAT, engines=(VLLM, SGLANG, SIM), standby=standby),)), host)

    assert memory_groups(model, host) == groups
