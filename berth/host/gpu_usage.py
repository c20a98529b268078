"""GPU memory through NVML: how much is used, and when the memory of a dead engine is back. No NVML: nothing to see."""

from collections.abc import Iterable, Mapping
from typing import Any

import pynvml

from berth.log import log
from berth.state import GpuState

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
