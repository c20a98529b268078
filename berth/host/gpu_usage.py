"""GPU memory in use, utilization and health, read through NVML. Without NVML there are no readings."""

from collections.abc import Iterable, Mapping
from typing import Any

import pynvml

from berth.host.gpu_health import GpuHealth
from berth.host.gpus import handle_of, init_error
from berth.log import log
from berth.state import GpuState

Used = Mapping[int, int]  # bytes used, by GPU index


class Gpus:
    """The GPUs of the plan. Each call may take some milliseconds and never raises."""

    def __init__(self, indexes: Iterable[int], *, nvml: Any = pynvml) -> None:
        self._indexes = tuple(indexes)
        self._nvml = nvml
        error = init_error(nvml) if self._indexes else None
        self._ready = bool(self._indexes) and error is None
        if error is not None:
            log.warning("NVML unavailable, GPU memory not monitored", error=str(error))
        self._health: GpuHealth | None = None  # until it is asked for
        self.gone: dict[int, str] = {}  # those that did not answer the last time, and why

    def watch(self) -> tuple[GpuState, ...]:
        """The same, with their health. Takes longer."""
        if not self._ready:
            return ()
        if self._health is None:
            self._health = GpuHealth(self._indexes, nvml=self._nvml)
        self._health.collect()
        return tuple(map(self._health.of, self.read()))

    def read(self) -> tuple[GpuState, ...]:
        """The GPUs that respond."""
        states: list[GpuState] = []
        gone: dict[int, str] = {}
        for index in self._indexes if self._ready else ():
            try:
                handle = handle_of(index, self._nvml)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except self._nvml.NVMLError as error:
                if getattr(error, "value", None) != pynvml.NVML_ERROR_NOT_SUPPORTED:  # by one that uses the host's
                    gone[index] = str(error)
                continue
            try:
                utilization = int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            except self._nvml.NVMLError:  # not supported by every GPU, nor with MIG
                utilization = None
            state = GpuState(
                index=index,
                memory_used_bytes=int(memory.used),
                memory_total_bytes=int(memory.total),
                utilization_percent=utilization,
            )
            states.append(state)
        self.gone = gone
        return tuple(states)

    def used(self, indexes: Iterable[int]) -> dict[int, int]:
        requested = set(indexes)
        return {state.index: state.memory_used_bytes for state in self.read() if state.index in requested}
