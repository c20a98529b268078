"""What GPUs say about their health, read through NVML: heat and power, errors of their memory and of their driver.

A figure that a GPU does not have is left out. Each call may take some milliseconds and never raises.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import pynvml

from berth.host.gpus import INSTANCES, handle_of
from berth.state import GpuState

# Reasons for lower clocks that are a fault. A limit of power that a GPU reaches under load is none.
_HEAT: Final = pynvml.nvmlClocksThrottleReasonSwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
_POWER: Final = pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
# Xids that a faulty program causes, whose engine ends and is restarted (NVIDIA's list in "XID Errors").
_OF_PROGRAMS: Final = frozenset({13, 31, 43, 45, 68, 109})
_MOST_EVENTS: Final = 64  # at a time


class GpuHealth:
    def __init__(self, indexes: Iterable[int], *, nvml: Any = pynvml, wall: Callable[[], float] = time.time) -> None:
        """NVML is initialised."""
        self._nvml = nvml
        self._wall = wall
        self._slowed: dict[int, tuple[str, float]] = {}  # by GPU: why, and since when
        self._xids: dict[str, tuple[int, float]] = {}  # by UUID: the last one, and when
        self._events: Any = None  # None: this driver reports none
        with suppress(nvml.NVMLError):
            events = nvml.nvmlEventSetCreate()
            for index in {_whole(index) for index in indexes}:
                with suppress(nvml.NVMLError):  # one that has no events
                    handle = nvml.nvmlDeviceGetHandleByIndex(index)
                    nvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
                    self._events = events

    def of(self, state: GpuState) -> GpuState:
        """The state with all that its GPU says."""
        nvml, index = self._nvml, state.index
        try:
            handle = handle_of(index, nvml)
            whole = nvml.nvmlDeviceGetHandleByIndex(_whole(index))
        except nvml.NVMLError:
            return state
        milliwatts = self._figure(lambda: nvml.nvmlDeviceGetPowerUsage(whole))
        reasons = self._figure(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(whole)) or 0
        why = "heat" if reasons & _HEAT else "power" if reasons & _POWER else ""
        if why != self._slowed.get(index, ("", 0.0))[0]:
            self._slowed[index] = why, self._wall() if why else 0.0
        kind, counter = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        with suppress(nvml.NVMLError):
            xid, xid_at = self._xids.get(nvml.nvmlDeviceGetUUID(whole), (0, 0.0))
            state = replace(state, xid=xid, xid_at=xid_at)
        return replace(
            state,
            power_watts=None if milliwatts is None else milliwatts / 1000,
            temperature_celsius=self._figure(lambda: nvml.nvmlDeviceGetTemperature(whole, pynvml.NVML_TEMPERATURE_GPU)),
            slowed=why,
            slowed_since=self._slowed.get(index, ("", 0.0))[1],
            ecc_errors=self._figure(lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, counter)) or 0,
        )

    def collect(self) -> None:
        """Takes the errors that the driver has reported since the last time."""
        nvml = self._nvml
        with suppress(nvml.NVMLError):  # the end of them too
            for _ in range(_MOST_EVENTS if self._events is not None else 0):
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
                if event.eventData not in _OF_PROGRAMS:
                    self._xids[nvml.nvmlDeviceGetUUID(event.device)] = int(event.eventData), self._wall()

    def _figure(self, query: Callable[[], int]) -> int | None:
        try:
            return int(query())
        except self._nvml.NVMLError:
            return None


def _whole(index: int) -> int:
    """The GPU of a MIG instance; of a GPU itself."""
    return index // INSTANCES - 1 if index >= INSTANCES else index
