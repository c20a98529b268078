"""The health of GPUs, with an NVML that reports all of it, some of it and nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from berth.host.gpu_usage import Gpus
from berth.state import GpuState


class FakeError(Exception):
    value = pynvml.NVML_ERROR_NOT_SUPPORTED


class LostError(FakeError):
    value = pynvml.NVML_ERROR_GPU_IS_LOST


@dataclass
class FakeNvml:
    """Every GPU has the same figures. A name in `missing` is a function that this GPU does not support."""

    reasons: int = 0
    missing: frozenset[str] = frozenset()
    events: list[tuple[int, int]] = field(default_factory=list)  # GPU and Xid, taken from the front
    watched: list[int] = field(default_factory=list)
    lost: bool = False
    NVMLError: type[Exception] = FakeError

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: None,
            "nvmlEventSetCreate": lambda: "set",
            "nvmlDeviceRegisterEvents": lambda handle, _kinds, _set: self.watched.append(handle),
            "nvmlDeviceGetHandleByIndex": self._handle,
            "nvmlDeviceGetMigDeviceHandleByIndex": lambda handle, number: 10 * handle + number,
            "nvmlDeviceGetMemoryInfo": lambda _handle: SimpleNamespace(used=5, total=8),
            "nvmlDeviceGetUtilizationRates": lambda _handle: SimpleNamespace(gpu=42),
            "nvmlDeviceGetPowerUsage": lambda _handle: 412_500,
            "nvmlDeviceGetTemperature": lambda _handle, _sensor: 61,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _handle: self.reasons,
            "nvmlDeviceGetTotalEccErrors": lambda _handle, _kind, _counter: 3,
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
            "nvmlEventSetWait_v2": lambda _set, _timeout: self._event(),
        }
        if name in self.missing:
            return self._fail
        return answers[name]

    def _handle(self, index: int) -> int:
        if self.lost:
            raise LostError("GPU is lost")
        return index

    def _fail(self, *_arguments: object) -> None:
        raise FakeError("Not Supported")

    def _event(self) -> SimpleNamespace:
        if not self.events:
            raise FakeError("Timeout")
        device, xid = self.events.pop(0)
        return SimpleNamespace(device=device, eventData=xid)


def test_all_that_a_gpu_says() -> None:
    (state,) = Gpus([0], nvml=FakeNvml()).watch()
    assert (state.power_watts, state.temperature_celsius, state.ecc_errors, state.slowed) == (412.5, 61, 3, "")


def test_what_a_gpu_does_not_say_is_left_out() -> None:
    names = ("PowerUsage", "Temperature", "CurrentClocksThrottleReasons", "TotalEccErrors", "UUID")
    missing = frozenset({*(f"nvmlDeviceGet{name}" for name in names), "nvmlEventSetCreate"})
    (state,) = Gpus([0], nvml=FakeNvml(missing=missing)).watch()
    assert state == GpuState(index=0, memory_used_bytes=5, memory_total_bytes=8, utilization_percent=42)


@pytest.mark.parametrize(
    ("reasons", "slowed"),
    [
        (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, "heat"),
        (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "heat"),
        (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "power"),
        (pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonGpuIdle, ""),
    ],
)
def test_slowed_since_it_began(reasons: int, slowed: str) -> None:
    nvml = FakeNvml()
    gpus = Gpus([0], nvml=nvml)
    assert gpus.watch()[0].slowed_since == 0
    nvml.reasons = reasons
    first, second = gpus.watch()[0], gpus.watch()[0]
    assert (first.slowed, first.slowed_since > 0) == (slowed, bool(slowed))
    assert second.slowed_since == first.slowed_since
    nvml.reasons = 0
    assert (gpus.watch()[0].slowed, gpus.watch()[0].slowed_since) == ("", 0)


def test_errors_of_the_driver_are_kept_and_those_of_programs_are_not() -> None:
    nvml = FakeNvml(events=[(1, 13), (1, 79), (1, 31)])
    gpus = Gpus([0, 1], nvml=nvml)
    assert [one.xid for one in gpus.watch()] == [0, 79]
    assert [one.xid for one in gpus.watch()] == [0, 79]
    assert gpus.watch()[1].xid_at > 0
    assert sorted(nvml.watched) == [0, 1]


def test_a_mig_instance_has_the_health_of_its_gpu() -> None:
    nvml = FakeNvml(events=[(1, 95)])
    (state,) = Gpus([203], nvml=nvml).watch()
    assert (state.index, state.xid, nvml.watched) == (203, 95, [1])


def test_a_gpu_that_does_not_answer_is_gone_until_it_does() -> None:
    nvml = FakeNvml()
    gpus = Gpus([0], nvml=nvml)
    gpus.watch()
    assert gpus.gone == {}
    nvml.lost = True
    assert gpus.watch() == ()
    assert gpus.gone == {0: "GPU is lost"}
    nvml.lost = False
    gpus.watch()
    assert gpus.gone == {}


def test_one_that_is_lost_between_two_questions_has_no_health() -> None:
    nvml = FakeNvml()
    gpus = Gpus([0], nvml=nvml)
    gpus.watch()
    nvml.lost = True
    known = GpuState(index=0, memory_used_bytes=5, memory_total_bytes=8)
    assert gpus._health is not None
    assert gpus._health.of(known) == known


def test_memory_that_is_the_hosts_is_not_gone() -> None:
    gpus = Gpus([0], nvml=FakeNvml(missing=frozenset({"nvmlDeviceGetMemoryInfo"})))
    assert gpus.watch() == ()
    assert gpus.gone == {}


def test_nothing_without_a_driver() -> None:
    assert Gpus([0], nvml=FakeNvml(missing=frozenset({"nvmlInit"}))).watch() == ()
