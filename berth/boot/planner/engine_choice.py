"""Which engines are installed, which can serve a model, and which one is taken when the user names none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from berth.boot.checkpoints.metadata import ModelInfo
from berth.errors import ConfigError, Problem
from berth.host.installed_engines import InstalledEngine
from berth.plan import EngineName, Gpu, GpuInventory, Task

# Their CUDA 13 builds hold no code for older GPUs.
KINDS: dict[Task, str] = {
    Task.GENERATE: "this model",
    Task.EMBED: "embeddings",
    Task.RERANK: "rerankers",
    Task.CLASSIFY: "classifiers",
}
LEAST_CAPABILITY: dict[EngineName, tuple[int, int]] = {
    EngineName.VLLM: (7, 5),
    EngineName.SGLANG: (7, 5),
    EngineName.TRTLLM: (8, 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    engine: EngineName
    reason: str


def choose(
    info: ModelInfo,
    task: Task,
    found: Mapping[EngineName, InstalledEngine],
    order: Sequence[EngineName],
    inventory: GpuInventory,
) -> Choice:
    """The first engine of `order` that can serve the model here; one that uses the GPUs, if there are any.

    ConfigError where there is none, with what stands in the way of each.
    """
    adapted = bool(info.adapters)
    obstacles = {engine: obstacle(engine, task, found, inventory, adapted=adapted) for engine in order}
    able = [engine for engine in order if not obstacles[engine]]
    able.sort(key=lambda engine: bool(inventory.gpus) and found[engine].cpu)
    if not able:
        reasons = "; ".join(f"{engine}: {reason}" for engine, reason in obstacles.items())
        raise ConfigError([_nobody(info, reasons, inventory)])
    engine = able[0]
    where = "on the CPU" if not inventory.gpus or found[engine].cpu else "on the GPU"
    listed = ", ".join(order)
    kind = KINDS[task]
    reason = f"chosen: first of BERTH_ENGINES ({listed}) that is installed and serves {kind} {where}"
    return Choice(engine=engine, reason=reason)


def obstacle(
    engine: EngineName,
    task: Task,
    found: Mapping[EngineName, InstalledEngine],
    inventory: GpuInventory,
    *,
    adapted: bool = False,
) -> str:
    """Why this engine cannot serve such a model (`adapted`: with LoRA adapters) here; empty where it can."""
    one = found.get(engine)
    if one is None:
        return "not installed"
    if engine == EngineName.TRTLLM and (adapted or task != Task.GENERATE):
        return f"serves no {'LoRA adapters' if task == Task.GENERATE else KINDS[task]}"
    if one.cpu:
        return ""
    if not inventory.gpus:
        return f"{one.distribution} {one.version} is built for GPUs, and {inventory.reason.partition(': ')[0]}"
    if not any(_capable(engine, gpu) for gpu in inventory.gpus):
        major, minor = LEAST_CAPABILITY[engine]
        return f"needs compute capability {major}.{minor}, these GPUs have {inventory.gpus[0].compute_capability}"
    return ""


def advice(inventory: GpuInventory) -> str:
    """What an operator can do where an engine is missing, or has no GPU."""
    install = "install an engine below BERTH_ENGINE_HOME (`make run` does that in a clone)"
    way_to_gpus = inventory.reason.partition(": ")[2] or "start the container with `--gpus all`"
    return f"{'' if inventory.gpus else f'{way_to_gpus}, or '}{install}, or name the simulated engine: sim"


def _nobody(info: ModelInfo, reasons: str, inventory: GpuInventory) -> Problem:
    return Problem(
        variable="BERTH_ENGINES",
        value="",
        reason=f"no engine can serve {info.source!r} here ({reasons})",
        allowed=advice(inventory),
        example=f"BERTH_MODELS={info.source}@sim",
    )


def _capable(engine: EngineName, gpu: Gpu) -> bool:
    major, _dot, minor = gpu.compute_capability.partition(".")
    known = (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (99, 0)
    return known >= LEAST_CAPABILITY[engine]
