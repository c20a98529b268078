"""What the GPUs do meanwhile, with a driver that is played."""

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import pytest

from berth.bench.box import Gpus, Watch, agreed, family


class Driver:
    """NVML, as far as it is used: two GPUs whose energy counter grows by 100 J with each reading."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, *, throttled: int = 0, processes: tuple[Any, ...] = (), broken: bool = False) -> None:
        self._throttled, self._processes, self._broken = throttled, processes, broken
        self.energy = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if self._broken:
            raise self.NVMLError

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=10 << 30)

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: int) -> Any:  # noqa: N802
        return self._processes

    def nvmlDeviceGetPowerUsage(self, _handle: int) -> int:  # noqa: N802
        return 300_000

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle: int) -> int:  # noqa: N802
        self.energy += 100_000
        return self.energy

    def nvmlDeviceGetClockInfo(self, _handle: int, _kind: int) -> int:  # noqa: N802
        return 1900

    def nvmlDeviceGetCurrentClocksEventReasons(self, _handle: int) -> int:  # noqa: N802
        return self._throttled


def watched(driver: Driver) -> Any:
    async def scene() -> Any:
        watch = Watch(Gpus((0, 1), nvml=driver), None)
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0)
        task.cancel()
        return watch.box()

    return asyncio.run(scene())


def test_figures_are_those_of_all_gpus() -> None:
    box = watched(Driver())
    assert (box.power_w, box.clock_mhz, box.memory_bytes, box.throttled_share) == (600.0, 1900.0, 20 << 30, 0.0)
    assert box.energy_j is None  # the counter grew far more than power and time say
    assert box.foreign == ""


def test_throttled_gpu_and_foreign_processes_are_seen() -> None:
    parent = SimpleNamespace(pid=os.getppid(), usedGpuMemory=2 << 30)
    small = SimpleNamespace(pid=os.getppid(), usedGpuMemory=1 << 20)
    unknown = SimpleNamespace(pid=2**31 - 5, usedGpuMemory=None)
    box = watched(Driver(throttled=0x40, processes=(parent, small, unknown)))
    assert box.throttled_share == 1.0
    assert box.foreign.startswith(f"process {os.getppid()} holds 2048 MiB of a GPU")


@pytest.mark.parametrize(
    "gpus",
    [
        Gpus((), nvml=Driver()),
        Gpus((0,), nvml=Driver(broken=True)),
        Gpus((0,), nvml=SimpleNamespace(NVMLError=ValueError, nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=int)),
    ],
)
def test_without_a_driver_nothing_is_known(gpus: Gpus) -> None:
    assert (gpus.memory(), gpus.power(), gpus.energy(), gpus.clock(), gpus.throttled()) == (None,) * 5
    assert gpus.foreign(set()) == ""


@pytest.mark.parametrize(
    ("counted", "power", "expected"),
    [
        (600.0, [(0.0, 300.0), (1.0, 300.0), (2.0, 300.0)], 600.0),
        (700.0, [(0.0, 300.0), (1.0, 300.0), (2.0, 300.0)], None),
        (1200.0, [(0.0, 300.0), (4.0, 300.0)], None),
        (None, [(0.0, 300.0), (1.0, 300.0)], None),
        (1.0, [], None),
    ],
)
def test_energy_needs_a_counter_and_power_that_agree(
    counted: float | None, power: list[tuple[float, float]], expected: float | None
) -> None:
    assert agreed(counted, power) == expected


def test_own_processes_are_not_foreign() -> None:
    assert os.getpid() in family(os.getpid())
    assert family(None) == {os.getpid()}
    assert family(2**31 - 5) == {os.getpid(), 2**31 - 5}
