"""GPU memory, with an NVML in which everything may fail."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from berth.control.cleanup import released, wait_released
from berth.host.gpu_usage import Gpus, Used
from berth.state import GpuState

GIB = 2**30


class FakeNVMLError(Exception):
    pass


@dataclass
class FakeNvml:
    """GPU 0 answers all, GPU 1 has no utilization, GPU 2 is lost."""

    NVMLError: type[Exception] = FakeNVMLError
    broken: bool = False
    calls: list[str] = field(default_factory=list)

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        if self.broken:
            raise FakeNVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - NVML's name
        if index == 2:
            raise FakeNVMLError("GPU is lost")
        return index

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, number: int) -> int:  # noqa: N802 - NVML's name
        return 10 * handle + number

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802 - NVML's name
        return SimpleNamespace(used=(handle + 1) * GIB, total=8 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802 - NVML's name
        if handle == 1:
            raise FakeNVMLError("Not Supported")
        return SimpleNamespace(gpu=42)


def test_reads_every_gpu_that_responds() -> None:
    gpus = Gpus([0, 1, 2], nvml=FakeNvml())
    assert gpus.read() == (
        GpuState(index=0, memory_used_bytes=GIB, memory_total_bytes=8 * GIB, utilization_percent=42),
        GpuState(index=1, memory_used_bytes=2 * GIB, memory_total_bytes=8 * GIB),
    )
    assert gpus.used([1, 2]) == {1: 2 * GIB}


def test_reads_a_mig_instance() -> None:
    assert Gpus([203], nvml=FakeNvml()).used([203]) == {203: 14 * GIB}


def test_no_driver_means_no_readings(caplog: pytest.LogCaptureFixture) -> None:
    assert Gpus([0], nvml=FakeNvml(broken=True)).read() == ()
    assert "NVML unavailable" in caplog.text


def test_does_not_initialise_nvml_without_gpus_in_the_plan(caplog: pytest.LogCaptureFixture) -> None:
    assert Gpus([], nvml=FakeNvml(broken=True)).used([]) == {}
    assert not caplog.text


@pytest.mark.parametrize(
    ("readings", "before", "expected"),
    [
        ([], None, False),
        ([{}], None, True),
        ([{0: 5 * GIB}] * 2, None, False),
        ([{0: 5 * GIB}] * 3, None, True),
        ([{0: 5 * GIB}] * 3, {0: 1 * GIB}, False),
        ([{0: 5 * GIB}] * 3, {0: 5 * GIB}, True),
        ([{0: 9 * GIB}, {0: 8 * GIB}, {0: 7 * GIB}], None, False),
        ([{0: 9 * GIB}, *([{0: GIB}] * 3)], {0: GIB}, True),
        ([{0: GIB, 1: 9 * GIB}] * 3, {0: GIB, 1: GIB}, False),
        ([{0: GIB}] * 3, {1: 0}, True),
        ([{0: GIB}, {}, {0: GIB}], None, False),
    ],
)
def test_memory_is_back_when_it_is_steady_and_low(readings: list[Used], before: Used | None, expected: bool) -> None:
    assert released(readings, before) is expected


@pytest.mark.anyio
@pytest.mark.parametrize(("end", "back"), [(1 * GIB, True), (9 * GIB, False)])
async def test_a_release_is_waited_for_but_not_for_ever(end: int, back: bool) -> None:
    falling = iter([9 * GIB, 7 * GIB, 3 * GIB])
    result = await wait_released(lambda: {0: next(falling, end)}, {0: GIB}, timeout_s=0.2, poll_s=0.001)
    assert result is back
