"""What the GPUs do while an engine is measured, read through NVML twice a second. Without NVML nothing is known."""

import asyncio
import itertools
import os
import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import psutil
import pynvml

from berth.bench.window import Box
from berth.host.gpus import handle_of, init_error

PERIOD_S = 0.5
FOREIGN_BYTES = 512 << 20
_SLOWED = 0x8 | 0x20 | 0x40 | 0x80  # the hardware's and the driver's slowdown by heat, and the power brake
_CLOCK_SM = 1
_AGREES = 0.05  # of energy by its counter and by power over time
_LONGEST_GAP_S = 3.0


class Gpus:
    """Those of a model."""

    def __init__(self, indexes: Sequence[int], *, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._handles: list[Any] = []
        if indexes and init_error(nvml) is None:
            self._handles = [handle_of(index, nvml) for index in indexes]

    def memory(self) -> int | None:
        found = [self._read("nvmlDeviceGetMemoryInfo", handle) for handle in self._handles]
        return sum(int(one.used) for one in found if one is not None) if any(found) else None

    def foreign(self, own: set[int]) -> str:
        """What else of this machine holds memory there. A container does not see the processes of others."""
        names = []
        for handle in self._handles:
            for process in self._read("nvmlDeviceGetComputeRunningProcesses", handle) or ():
                known = process.pid not in own and psutil.pid_exists(process.pid)
                if known and (process.usedGpuMemory or 0) > FOREIGN_BYTES:
                    names.append(f"process {process.pid} holds {process.usedGpuMemory >> 20} MiB of a GPU")
        return "; ".join(names)

    def power(self) -> float | None:
        """Watts, of all of them."""
        found = [self._read("nvmlDeviceGetPowerUsage", handle) for handle in self._handles]
        return sum(found) / 1000 if found and None not in found else None

    def energy(self) -> float | None:
        """Joules since the driver was loaded."""
        found = [self._read("nvmlDeviceGetTotalEnergyConsumption", handle) for handle in self._handles]
        return sum(found) / 1000 if found and None not in found else None

    def clock(self) -> float | None:
        found = [self._read("nvmlDeviceGetClockInfo", handle, _CLOCK_SM) for handle in self._handles]
        return fmean(found) if found and None not in found else None

    def throttled(self) -> bool | None:
        found = [self._read("nvmlDeviceGetCurrentClocksEventReasons", handle) for handle in self._handles]
        return any(reasons & _SLOWED for reasons in found) if found and None not in found else None

    def _read(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, name)(*arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None


class Watch:
    """From its making to `box`."""

    def __init__(self, gpus: Gpus, engine: int | None) -> None:
        self._gpus = gpus
        self._engine = engine  # its process
        self._began = time.monotonic()
        self._cpu_began = time.process_time()
        self._energy = gpus.energy()
        self._power: list[tuple[float, float]] = []
        self._clocks: list[float] = []
        self._throttled: list[bool] = []
        self._memory: list[int] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._sample()
            await asyncio.sleep(PERIOD_S)

    def _sample(self) -> None:
        gpus = self._gpus
        if (power := gpus.power()) is not None:
            self._power.append((time.monotonic(), power))
        if (clock := gpus.clock()) is not None:
            self._clocks.append(clock)
        if (throttled := gpus.throttled()) is not None:
            self._throttled.append(throttled)
        if (memory := gpus.memory()) is not None:
            self._memory.append(memory)

    def box(self) -> Box:
        self._sample()
        seconds = max(time.monotonic() - self._began, 1e-9)
        now = self._gpus.energy()
        counted = None if now is None or self._energy is None else now - self._energy
        return Box(
            client_cpu=(time.process_time() - self._cpu_began) / seconds,
            energy_j=agreed(counted, self._power),
            power_w=fmean(power for _at, power in self._power) if self._power else None,
            clock_mhz=median(self._clocks) if self._clocks else None,
            throttled_share=fmean(self._throttled) if self._throttled else None,
            memory_bytes=max(self._memory, default=None),
            foreign=self._gpus.foreign(family(self._engine)),
        )


def agreed(counted: float | None, power: Sequence[tuple[float, float]]) -> float | None:
    """The energy of a counter, in joules, if power over time says the same. None: they differ, or there are gaps."""
    steps = list(itertools.pairwise(power))
    if counted is None or not steps or any(after[0] - before[0] > _LONGEST_GAP_S for before, after in steps):
        return None
    integral = sum((after[0] - before[0]) * (before[1] + after[1]) / 2 for before, after in steps)
    return counted if abs(counted - integral) <= _AGREES * max(counted, integral) else None


def family(pid: int | None) -> set[int]:
    """A process and all that it has started, and this one."""
    if pid is None:
        return {os.getpid()}
    try:
        root = psutil.Process(pid)
        return {os.getpid(), pid, *(one.pid for one in root.children(recursive=True))}
    except psutil.Error:
        return {os.getpid(), pid}
