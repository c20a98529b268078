"""Launch orders and GPUs for tests."""

from dataclasses import replace
from typing import Any

from berth.engines.base import LaunchOrder
from berth.plan import Gpu, MemoryEstimate

GIB = 1 << 30


def gpu(index: int = 0, *, memory_gib: int = 80) -> Gpu:
    return Gpu(
        index=index,
        uuid=f"GPU-{index:08d}-0000-0000-0000-000000000000",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=memory_gib * GIB,
        memory_free_bytes=memory_gib * GIB - (GIB >> 1),
        compute_capability="9.0",
    )


def estimate(*, weights_gib: int = 16, kv_gib: int = 10, overhead_gib: int = 4) -> MemoryEstimate:
    return MemoryEstimate(
        weights_bytes=weights_gib * GIB,
        kv_bytes_per_token=1 << 17,
        kv_tokens=(kv_gib * GIB) >> 17,
        kv_bytes=kv_gib * GIB,
        overhead_bytes=overhead_gib * GIB,
        largest_context=65536,
    )


def launch_order(*, gpus: int = 1, **changes: Any) -> LaunchOrder:
    order = LaunchOrder(
        replica="chat-engine",
        served_name="chat",
        source="Qwen/Qwen3-8B",
        port=21001,
        gpus=tuple(gpu(index) for index in range(gpus)),
        context=32768,
        home="/opt/engines/it",
        python="/opt/berth/bin/python",
        run_dir="/run/berth",
        data_dir="/data",
    )
    return replace(order, **changes)
