"""Allocates GPUs, or the host's memory, to the engines of all models."""

from collections import Counter
from collections.abc import Mapping, Sequence

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.settings import Settings
from berth.boot.planner.fit.gpu_request import Allocation, Entry, GpuRequest
from berth.boot.planner.fit.memory import CacheOptions, adapter_bytes
from berth.boot.planner.fit.placement import budgets, place, place_on_cpu, usable
from berth.boot.planner.fit.report import cpu_report, gpu_report
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.measurements import measured_starts
from berth.boot.planner.model_options import engine_options
from berth.boot.planner.nodes import staged
from berth.boot.planner.resolve import UNMANAGED, ResolvedModel
from berth.engines.base import Engine
from berth.engines.lora import spare
from berth.errors import PlacementError
from berth.plan import EngineName, Load, Standby
from berth.room import ASLEEP_BYTES, RAM


def allocate(
    models: tuple[ResolvedModel, ...], settings: Settings, host: HostInfo, engines: Mapping[EngineName, Engine]
) -> dict[Entry, Allocation]:
    """One allocation per engine that loads a model on this host. PlacementError where they do not fit."""
    requests = [
        one
        for model in models
        if model.info
        for one in gpu_requests(model, staged(model.info, model.spec.nodes), host, engines)
    ]
    for_gpus, for_cpu = ([one for one in requests if one.cpu is cpu] for cpu in (False, True))
    gpus, fraction = host.inventory.gpus, settings.gpu_memory_fraction
    on_gpus = place(for_gpus, gpus, fraction)
    if on_gpus is None:
        raise PlacementError(gpu_report(for_gpus, gpus, fraction, host.occupants()))
    available_bytes = available_ram(models, host)
    on_cpu = place_on_cpu(for_cpu, available_bytes)
    if on_cpu is None:
        raise PlacementError(cpu_report(for_cpu, available_bytes))
    return {entry: one for one in (*on_gpus, *on_cpu) for entry in one.request.entries}


def available_ram(models: Sequence[ResolvedModel], host: HostInfo) -> int:
    """For models that run on the CPU."""
    return max(host.memory_available_bytes - sum(offloaded_bytes(model, host) for model in models), 0)


def shared_room(
    models: Sequence[ResolvedModel], allocations: Mapping[Entry, Allocation], settings: Settings, host: HostInfo
) -> tuple[dict[int, int], dict[str, dict[int, int]]]:
    """`Plan.room`, and what each model takes of it: nothing if it is always loaded. All of it is empty where all models
    fit at the same time.
    """
    limits = budgets(usable(host.inventory.gpus), settings.gpu_memory_fraction) | {RAM: available_ram(models, host)}
    on_request = {model.spec.name for model in models if model.spec.load is Load.ON_REQUEST}
    taken: dict[str, Counter[int]] = {model.spec.name: Counter() for model in models}
    for one in {one.request.name: one for one in allocations.values()}.values():
        taken[one.request.model].update(one.taken)
    total = sum(taken.values(), Counter[int]())
    if all(total[device] <= limit for device, limit in limits.items()):
        return {}, {name: {} for name in taken}
    always = sum((one for name, one in taken.items() if name not in on_request), Counter[int]())
    shared = {device for name in on_request for device in taken[name]}
    room = {device: limits[device] - always[device] for device in sorted(shared)}
    return room, {name: dict(sorted(one.items())) if name in on_request else {} for name, one in taken.items()}


def offloaded_bytes(model: ResolvedModel, host: HostInfo) -> int:
    """RAM for KV cache that the engines of a model hold at once: all that run or sleep. Cold ones run one at a time."""
    on_gpus = [
        entry
        for entry in model.entries
        if (one := host.installed.get(entry.engine)) and not one.cpu and entry.engine not in UNMANAGED
    ]
    count = min(len(on_gpus), 1) if model.spec.standby is Standby.COLD else len(on_gpus)
    return model.options.kv_offload_bytes * count


def gpu_requests(
    model: ResolvedModel, info: ModelInfo, host: HostInfo, engines: Mapping[EngineName, Engine]
) -> list[GpuRequest]:
    """One for each group of engines that share memory."""
    name, groups = model.spec.name, memory_groups(model, host)
    warm = model.spec.standby is Standby.WARM
    return [
        GpuRequest(
            name=name if len(groups) == 1 else f"{name} ({group[0] + 1}: {model.entries[group[0]].engine})",
            info=info,
            engines=tuple(engines[model.entries[number].engine] for number in group),
            entries=tuple((name, number) for number in group),
            cpu=host.installed[model.entries[group[0]].engine].cpu,
            on_request=model.spec.load is Load.ON_REQUEST,
            pin=model.spec.pin,
            sleeps=model.spec.sleep,
            gpus=own_gpus(model, group[0]),
            context=model.spec.context,
            kv_cache_bytes=model.spec.kv_cache_bytes,
            extra_bytes=adapter_bytes(info, spare(model.spec.adapter_slots, model.spec.adapter_rank)),
            asleep_bytes=ASLEEP_BYTES * (len(group) - 1) if warm else 0,
            cache=tuple(
                CacheOptions.of(
                    model.entries[number].args,
                    engine=model.entries[number].engine,
                    options=engine_options(model.spec, model.options, model.entries[number].engine),
                )
                for number in group
            ),
            measured=tuple(one for number in group for one in measured_starts(model, info, number, host)),
        )
        for group in groups
    ]


def own_gpus(model: ResolvedModel, position: int) -> int | tuple[int | str, ...] | None:
    """Of GPUs that are named, each replica gets as many."""
    gpus, replicas = model.spec.gpus, model.spec.replicas
    if not isinstance(gpus, tuple) or replicas == 1:
        return gpus
    each = len(gpus) // replicas
    return gpus[position * each : (position + 1) * each]


def memory_groups(model: ResolvedModel, host: HostInfo) -> list[list[int]]:
    """Positions in the engine order, grouped by shared memory. There are three cases:

    1. hot: all engines run at once, so none share memory.
    2. warm: on GPUs one engine works and the others sleep, so they share memory; on the CPU a sleeping engine keeps its
       memory.
    3. cold: one engine runs at a time, so all on GPUs share memory, and all on the CPU.
    """
    positions = [number for number, entry in enumerate(model.entries) if entry.engine not in UNMANAGED]
    on_cpu = [number for number in positions if host.installed[model.entries[number].engine].cpu]
    on_gpus = [number for number in positions if number not in on_cpu]
    match model.spec.standby:
        case Standby.HOT:
            groups = [[number] for number in (*on_gpus, *on_cpu)]
        case Standby.WARM:
            groups = [on_gpus, *([number] for number in on_cpu)]
        case Standby.COLD:
            groups = [on_gpus, on_cpu]
    return [group for group in groups if group]
