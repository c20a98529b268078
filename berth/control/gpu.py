"""GPU memory through NVML: how much is used, and when the memory of a dead engine is back. No NVML: nothing to see."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pynvml

from berth.log import log
from berth.state import GpuState

STEADY_READINGS = 3
TOLERANCE_BYTES = 64 * 2**20  # between readings that count as the same
LEFT_OVER_BYTES = 512 * 2**20  # above what was used before the start: contexts of neighbours grow a little

Used = Mapping[int, int]  # bytes used, by GPU index


class Gpus:
    """The GPUs of the plan. Every call may take some milliseconds and never raises."""

    def __init__(self, indexes: Iterable[int], *, nvml: Any = pynvml) -> None:
        self._indexes = tuple(indexes)
        self._nvml = nvml
        self._ready = bool(self._indexes) and self._init()

    def read(self) -> tuple[GpuState, ...]:
        """Those that answer now."""
        if not self._ready:
            return ()
        states = (self._read_one(index) for index in self._indexes)
        return tuple(state for state in states if state is not None)

    def used(self, indexes: Iterable[int]) -> dict[int, int]:
        wanted = set(indexes)
        return {state.index: state.memory_used_bytes for state in self.read() if state.index in wanted}

    def _init(self) -> bool:
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            log.warning("no GPU memory is watched: NVML does not start", error=str(error))
            return False
        return True

    def _read_one(self, index: int) -> GpuState | None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except self._nvml.NVMLError:
            return None
        return GpuState(
            index=index,
            memory_used_bytes=int(memory.used),
            memory_total_bytes=int(memory.total),
            utilization_percent=self._utilization(handle),
        )

    def _utilization(self, handle: Any) -> int | None:
        try:
            return int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except self._nvml.NVMLError:  # not on every GPU, and not on MIG
            return None


def released(readings: Sequence[Used], before: Used | None) -> bool:
    """The memory is back: several readings alike, and not far above what was used before the start, if that is known.
    GPUs that tell nothing are not waited for.
    """
    last = readings[-STEADY_READINGS:]
    if not last or not last[-1]:
        return bool(last)
    return len(last) == STEADY_READINGS and all(_steady(index, last, before or {}) for index in last[-1])


def _steady(index: int, last: Sequence[Used], before: Used) -> bool:
    values = [reading.get(index, 0) for reading in last]
    ceiling = before.get(index, values[-1]) + LEFT_OVER_BYTES
    return max(values) - min(values) <= TOLERANCE_BYTES and values[-1] <= ceiling


async def wait_released(read: Callable[[], Used], before: Used | None, *, timeout_s: float, poll_s: float) -> bool:
    """False when the time is up: then a start is tried all the same."""
    readings: list[Used] = [await asyncio.to_thread(read)]
    deadline = time.monotonic() + timeout_s
    while not released(readings, before):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(poll_s)
        readings.append(await asyncio.to_thread(read))
    return True
