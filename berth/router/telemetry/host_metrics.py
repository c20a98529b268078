"""Metrics of the host: its GPUs, its disks, its certificate; and how much needs attention."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from berth.notices import Kind, Notice
from berth.plan import Plan
from berth.state import GpuState, State

Figure = Callable[[GpuState], float | None]

# A GPU that does not say a figure has no sample of it.
_OF_GPUS: Final[tuple[tuple[str, str, Figure], ...]] = (
    ("berth_gpu_memory_used_bytes", "Memory in use on the GPU.", lambda gpu: gpu.memory_used_bytes),
    ("berth_gpu_memory_total_bytes", "Memory of the GPU.", lambda gpu: gpu.memory_total_bytes),
    (
        "berth_gpu_utilization_ratio",
        "Share of time the GPU was busy.",
        lambda gpu: None if gpu.utilization_percent is None else gpu.utilization_percent / 100,
    ),
    ("berth_gpu_power_watts", "Power that the GPU takes.", lambda gpu: gpu.power_watts),
    ("berth_gpu_temperature_celsius", "Temperature of the GPU.", lambda gpu: gpu.temperature_celsius),
    (
        "berth_gpu_uncorrected_errors",
        "Uncorrected errors of the GPU's memory since its driver was loaded.",
        lambda gpu: gpu.ecc_errors,
    ),
)


def notice_metric(found: Sequence[Notice]) -> Metric:
    metric = GaugeMetricFamily("berth_notices", "How much needs attention, by kind.", labels=("kind",))
    for kind in Kind:
        metric.add_metric((kind.value,), sum(one.kind is kind for one in found))
    return metric


def host_metrics(plan: Plan, state: State) -> Iterator[Metric]:
    uuids = {gpu.index: gpu.uuid for gpu in plan.inventory.gpus}
    for name, text, figure in _OF_GPUS:
        metric = GaugeMetricFamily(name, text, labels=("gpu", "uuid"))
        for gpu in state.gpus:
            if (value := figure(gpu)) is not None:
                metric.add_metric((str(gpu.index), uuids.get(gpu.index, "")), value)
        yield metric
    singles = (
        ("berth_run_directory_free_bytes", "Free space in the run directory.", state.run_dir_free_bytes),
        ("berth_data_directory_free_bytes", "Free space in the data directory.", state.host.data_dir_free_bytes),
        ("berth_tls_certificate_end_timestamp_seconds", "When the certificate ends.", state.host.tls_ends),
    )
    for name, text, value in singles:
        if value is not None:
            single = GaugeMetricFamily(name, text)
            single.add_metric((), value)
            yield single
