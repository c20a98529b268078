"""What a plan says about itself: nothing of it stops the boot."""

from collections.abc import Iterator, Mapping, Sequence

from berth.boot.config.otel import tracing
from berth.boot.config.settings import Settings
from berth.boot.planner.attached_replica import attached_warnings
from berth.boot.planner.fit.gpu_request import UNKNOWN_CONTEXT, Allocation, Entry
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.remote_code import code_warnings
from berth.boot.planner.resolve import UNMANAGED, ResolvedModel
from berth.dialects.attached.detection import Discovery
from berth.engines.base import Engine
from berth.engines.cli_arguments import option
from berth.host.gpus import INSTANCES
from berth.plan import DriverState, EngineName, Replica
from berth.units import size

NOTABLE_USE = 0.1  # of a GPU's memory, before Berth has started anything


def plan_warnings(
    models: Sequence[ResolvedModel],
    allocations: Mapping[Entry, Allocation],
    replicas: Sequence[Replica],
    found: Mapping[str, Discovery],
    host: HostInfo,
) -> Iterator[str]:
    """`found`: what attached servers say, by replica."""
    yield from gpu_warnings(host, models)
    yield from (f"{model.spec.name}: {note}" for model in models for note in model_warnings(model, host))
    yield from context_warnings(models, allocations)
    yield from instance_warnings(replicas, host)
    yield from key_warnings(replicas)
    if host.measured.problem:
        yield f"measured memory is ignored: {host.measured.problem}"
    yield from attached_warnings(replicas, found)


def gpu_warnings(host: HostInfo, models: Sequence[ResolvedModel]) -> list[str]:
    """Nothing about GPUs where no model could use one."""
    if all(model.info is None for model in models):
        return []
    found = host.inventory
    notes = [found.reason] if found.state in (DriverState.OK, DriverState.FAILED) and found.reason else []
    for gpu in found.gpus:
        used, total = gpu.memory_total_bytes - gpu.memory_free_bytes, gpu.memory_total_bytes
        if gpu.mig or used < NOTABLE_USE * total:
            continue
        who = ", ".join(map(str, host.occupants().get(gpu.index, ())))
        processes = f"other processes{f': {who}' if who else ' (see nvidia-smi)'}"
        notes.append(f"GPU {gpu.index}: {size(used)} of {size(total)} are in use by {processes}")
    mig = ", ".join(str(gpu.index) for gpu in found.gpus if gpu.mig)
    return [*notes, f"MIG is on, without an instance, so not used: GPU {mig}"] if mig else notes


def model_warnings(model: ResolvedModel, host: HostInfo) -> list[str]:
    """What is unchecked or estimated about a model, and engines that leave the GPUs unused."""
    if model.info is None:
        return []
    notes = [*model.info.warnings, *code_warnings(model.spec, model.entries, model.info, host)]
    if model.spec.context is None and model.info.max_position is None:
        notes.append(f"its context length is unknown: planned with at most {UNKNOWN_CONTEXT} tokens")
    for entry in model.entries:
        one = host.installed.get(entry.engine)
        if host.inventory.gpus and entry.engine not in UNMANAGED and one and one.cpu:
            notes.append(f"{one.distribution} {one.version} is a build for the CPU: it does not use the GPUs")
    return notes


def context_warnings(models: Sequence[ResolvedModel], allocations: Mapping[Entry, Allocation]) -> list[str]:
    """Where a model gets less context than it supports, because its GPUs hold no more."""
    warnings = []
    for model in models:
        limit = model.info.max_position if model.info else None
        own = [one for (name, _position), one in allocations.items() if name == model.spec.name and one.gpus]
        if own and limit and model.spec.context is None and own[0].context < limit:
            count, context = len(own[0].gpus), own[0].context
            fits = f"context {context} of the model's {limit} tokens is what fits on {count} GPU(s)"
            more = "a larger MIG instance" if own[0].gpus[0].part_of is not None else f"`gpus: {2 * count}`"
            warnings.append(f"{model.spec.name}: {fits}: {more} gives it more, if you have them")
    return warnings


def instance_warnings(replicas: Sequence[Replica], host: HostInfo) -> list[str]:
    """In vLLM 0.33, which asks NVML about the GPU with the number that the MIG instance has on its own GPU."""
    instances = {gpu.index: gpu for gpu in host.inventory.gpus if gpu.part_of is not None}
    whole = len({gpu.index if gpu.part_of is None else gpu.part_of for gpu in host.inventory.gpus})
    return [
        f"{one.name}: vLLM takes instance {number} of its GPU for GPU {number}, which is not here, and may not start: "
        "give the container this MIG instance alone, or use SGLang"
        for one in replicas
        for index in one.gpus
        if one.engine is EngineName.VLLM and index in instances and (number := index % INSTANCES) >= whole
    ]


def key_warnings(replicas: Sequence[Replica]) -> list[str]:
    """TensorRT-LLM has no key; another engine gets none only because of its options."""
    return [
        f"{replica.name}: with these args its engine takes no key: any process inside the container can use it"
        for replica in replicas
        if replica.launch and not replica.launch.takes_key and replica.engine is not EngineName.TRTLLM
    ]


def span_warnings(settings: Settings, replicas: Sequence[Replica], engines: Mapping[EngineName, Engine]) -> list[str]:
    """Engines whose part of a trace is missing. Those with an endpoint of the user's are the user's."""
    if tracing(settings) is None:
        return []
    silent = [
        one.engine
        for one in replicas
        if one.launch and not one.launch.takes_otel and (flags := engines[one.engine].traces_flags)
        if option(one.launch.argv, *flags) is None
    ]
    return [
        f"{engine} sends no spans of its own: install opentelemetry-sdk and opentelemetry-exporter-otlp in "
        f"{settings.engine_home}/{engine}"
        for engine in dict.fromkeys(silent)
    ]
