"""Which engines can serve a model on this host, and which one is chosen when the user names none."""

from collections.abc import Mapping, Sequence

from berth.boot.checkpoints.metadata import ModelInfo
from berth.errors import ConfigError, Problem
from berth.host.installed_engines import InstalledEngine
from berth.plan import EngineName, Gpu, GpuInventory, Task

KINDS: dict[Task, str] = {
    Task.GENERATE: "this model",
    Task.EMBED: "embeddings",
    Task.RERANK: "rerankers",
    Task.CLASSIFY: "classifiers",
}
# Their CUDA 13 builds contain no code for older GPUs.
LEAST_CAPABILITY: dict[EngineName, tuple[int, int]] = {
    EngineName.VLLM: (7, 5),
    EngineName.SGLANG: (7, 5),
    EngineName.TRTLLM: (8, 0),
}


def choose(
    info: ModelInfo,
    task: Task,
    installed: Mapping[EngineName, InstalledEngine],
    order: Sequence[EngineName],
    inventory: GpuInventory,
    *,
    adapted: bool = False,
) -> tuple[EngineName, str]:
    """The first engine of `order` that can serve the model here, and why; one that uses the GPUs, if there are any.

    ConfigError where there is none, with the reason for each.
    """
    unsupported = {engine: unsupported_reason(engine, task, installed, inventory, adapted=adapted) for engine in order}
    able = [engine for engine in order if not unsupported[engine]]
    if not able:
        reasons = "; ".join(f"{engine}: {reason}" for engine, reason in unsupported.items())
        problem = Problem(
            variable="BERTH_ENGINES",
            value="",
            reason=f"no engine can serve {info.source!r} here ({reasons})",
            allowed=advice(inventory),
            example=f"BERTH_MODELS={info.source}@sim",
        )
        raise ConfigError([problem])
    engine = min(able, key=lambda one: bool(inventory.gpus) and installed[one].cpu)
    where = "on the CPU" if not inventory.gpus or installed[engine].cpu else "on the GPU"
    listed = ", ".join(order)
    return engine, f"chosen: first of BERTH_ENGINES ({listed}) that is installed and serves {KINDS[task]} {where}"


def unsupported_reason(
    engine: EngineName,
    task: Task,
    installed: Mapping[EngineName, InstalledEngine],
    inventory: GpuInventory,
    *,
    adapted: bool = False,
) -> str:
    """Why this engine cannot serve such a model (`adapted`: with LoRA adapters) here; empty where it can."""
    one = installed.get(engine)
    if one is None:
        return "not installed"
    if engine == EngineName.TRTLLM and (adapted or task != Task.GENERATE):
        return f"serves no {'LoRA adapters' if task == Task.GENERATE else KINDS[task]}"
    if one.cpu:
        return ""
    if not inventory.gpus:
        return f"{one.distribution} {one.version} is built for GPUs, and {inventory.reason.partition(': ')[0]}"
    if not any(is_capable(engine, gpu) for gpu in inventory.gpus):
        major, minor = LEAST_CAPABILITY[engine]
        return f"needs compute capability {major}.{minor}, these GPUs have {inventory.gpus[0].compute_capability}"
    return ""


def advice(inventory: GpuInventory) -> str:
    """What an operator can do where an engine is missing, or has no GPU."""
    install = "install an engine below BERTH_ENGINE_HOME (`make run` does that in a clone)"
    way_to_gpus = inventory.reason.partition(": ")[2] or "start the container with `--gpus all`"
    return f"{'' if inventory.gpus else f'{way_to_gpus}, or '}{install}, or name the simulated engine: sim"


def is_capable(engine: EngineName, gpu: Gpu) -> bool:
    """Whether the engine has code for this GPU."""
    return gpu.capability >= LEAST_CAPABILITY[engine]
