"""Deals GPUs, or the machine's memory, to the engines of all models."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.settings import Settings
from berth.boot.planner.fit_report import cpu_shortfall, gpu_shortfall
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.memory import adapter_bytes
from berth.boot.planner.placement import Demand, EngineNeed, Placed, place, place_on_cpu
from berth.boot.planner.resolve import UNMANAGED, ResolvedModel
from berth.engines.base import Engine
from berth.errors import PlacementError
from berth.plan import EngineName, Gpu, MemoryEstimate, Standby

# Of each GPU, while an engine sleeps: its CUDA context and graphs, and NCCL's buffers. Not measured by us: rather much.
SLEEPER_BYTES = 2 * 2**30

Entry = tuple[str, int]  # a model's name and the position in its engine order


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What one engine of a model gets."""

    gpus: tuple[Gpu, ...]  # empty: the CPU
    memory_fraction: float | None
    memory: MemoryEstimate | None
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """A demand and the entries that it stands for: all of a model's (cold, warm), or one of them (hot)."""

    demand: Demand
    entries: tuple[Entry, ...]
    cpu: bool


def allot(
    wanted: tuple[ResolvedModel, ...], settings: Settings, here: HostInfo, engines: Mapping[EngineName, Engine]
) -> dict[Entry, Allocation]:
    """One allotment per engine that loads a model on this machine. PlacementError where they do not fit."""
    shares = [share for model in wanted if model.info for share in _shares(model, model.info, here, engines)]
    on_gpus = [share for share in shares if not share.cpu]
    on_cpu = [share for share in shares if share.cpu]
    return {**_on_gpus(on_gpus, settings, here), **_on_cpu(on_cpu, here)}


def _on_gpus(shares: list[_Share], settings: Settings, here: HostInfo) -> dict[Entry, Allocation]:
    demands, gpus = [share.demand for share in shares], here.inventory.gpus
    placed = place(demands, gpus, settings.gpu_memory_fraction)
    if placed is None:
        raise PlacementError(gpu_shortfall(demands, gpus, settings.gpu_memory_fraction, here.occupants()))
    return _allotted(shares, placed)


def _on_cpu(shares: list[_Share], here: HostInfo) -> dict[Entry, Allocation]:
    demands = [share.demand for share in shares]
    placed = place_on_cpu(demands, here.memory_available_bytes)
    if placed is None:
        raise PlacementError(cpu_shortfall(demands, here.memory_available_bytes))
    return _allotted(shares, placed)


def _allotted(shares: list[_Share], placed: tuple[Placed, ...]) -> dict[Entry, Allocation]:
    return {
        entry: Allocation(gpus=one.gpus, memory_fraction=one.memory_fraction, memory=memory, context=one.context)
        for share, one in zip(shares, placed, strict=True)
        for entry, memory in zip(share.entries, one.estimates, strict=True)
    }


def _shares(
    model: ResolvedModel, info: ModelInfo, here: HostInfo, engines: Mapping[EngineName, Engine]
) -> list[_Share]:
    positions = [number for number, entry in enumerate(model.entries) if entry.engine not in UNMANAGED]
    on_cpu = [number for number in positions if here.installed[model.entries[number].engine].cpu]
    on_gpus = [number for number in positions if number not in on_cpu]
    groups = [group for group in (on_gpus, on_cpu) if group]
    if model.spec.standby == Standby.HOT:
        groups = [[number] for group in groups for number in group]
    elif model.spec.standby == Standby.WARM:  # one that sleeps on the CPU keeps all that it has
        groups = [group for group in (on_gpus, *([number] for number in on_cpu)) if group]
    return [
        _Share(
            demand=replace(
                _demand(model, info, group, engines, several=len(groups) > 1),
                sleepers_bytes=_sleepers_bytes(model, group, on_gpus),
            ),
            entries=tuple((model.spec.name, number) for number in group),
            cpu=group[0] in on_cpu,
        )
        for group in groups
    ]


def _sleepers_bytes(model: ResolvedModel, group: list[int], on_gpus: list[int]) -> int:
    """While one of the group works, all others may sleep."""
    warm = model.spec.standby == Standby.WARM and group == on_gpus
    return SLEEPER_BYTES * (len(group) - 1) if warm else 0


def _demand(
    model: ResolvedModel, info: ModelInfo, group: list[int], engines: Mapping[EngineName, Engine], *, several: bool
) -> Demand:
    spec, first = model.spec, group[0]
    return Demand(
        name=f"{spec.name} ({first + 1}: {model.entries[first].engine})" if several else spec.name,
        info=info,
        engines=tuple(_need(engines[model.entries[number].engine], adapter_bytes(info)) for number in group),
        gpus=spec.gpus,
        context=spec.context,
        kv_cache_bytes=spec.kv_cache_bytes,
    )


def _need(engine: Engine, adapters_bytes: int) -> EngineNeed:
    return EngineNeed(engine=engine.name, overhead_bytes=lambda gpus: engine.overhead_bytes(gpus=gpus) + adapters_bytes)
