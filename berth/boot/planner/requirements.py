"""What models need of this machine before anything is downloaded: room on the disk, memory for the weights of engines
that sleep, and a driver new enough.
"""

from collections.abc import Iterator, Sequence

from berth.boot.config.models import EngineSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import UNMANAGED, ResolvedModel
from berth.boot.preflight import LEAST_CUDA, Finding, Level, What
from berth.host.disk import room_problem
from berth.host.installed_engines import InstalledEngine, driver_for, version
from berth.plan import Standby
from berth.units import size

# Who sets one of these for an engine has CUDA's libraries for older drivers (forward compatibility) at hand.
COMPATIBLE = frozenset({"LD_LIBRARY_PATH", "VLLM_ENABLE_CUDA_COMPATIBILITY"})


def prerequisites(wanted: Sequence[ResolvedModel], settings: Settings, here: HostInfo) -> list[Finding]:
    """Only what is amiss."""
    return [*_disk(settings, here), *_sleepers(wanted, here), *_drivers(wanted, here)]


def _disk(settings: Settings, here: HostInfo) -> list[Finding]:
    problem = room_problem(here.download_bytes(), here.disk_free_bytes, settings.data_dir)
    return [Finding(level=Level.FAIL, what=What.DATA_DIR, detail=problem)] if problem else []


def _sleepers(wanted: Sequence[ResolvedModel], here: HostInfo) -> list[Finding]:
    """Engines on GPUs that sleep keep their weights in the machine's memory, or in what a container may have of it."""
    models = [(model, count) for model in wanted if model.info and (count := _asleep_on_gpus(model, here))]
    if not models:
        return []
    sizes = [count * (model.info.weights_bytes or 0) for model, count in models if model.info]
    names = ", ".join(model.spec.name for model, _count in models)
    available = here.memory_available_bytes
    if sum(sizes) > available:
        return [
            Finding(
                level=Level.FAIL,
                what=What.RAM,
                detail=f"standby: warm keeps {size(sum(sizes))} of weights in memory ({names}), and {size(available)} "
                "are available (a container's limit counts)",
                remedy="Give it more (docker run --memory), name fewer engines, or use standby: cold",
            )
        ]
    unknown = ", ".join(model.spec.name for (model, _count), bytes_ in zip(models, sizes, strict=True) if not bytes_)
    if not unknown:
        return []
    detail = f"the size of the weights of {unknown} is not known, and standby: warm keeps them in memory"
    return [Finding(level=Level.WARN, what=What.RAM, detail=detail, remedy=f"Have more than that: {size(available)}")]


def _asleep_on_gpus(model: ResolvedModel, here: HostInfo) -> int:
    if model.spec.standby is not Standby.WARM:
        return 0
    later = [entry.engine for entry in model.entries[1:] if entry.engine not in UNMANAGED]
    return sum(not here.installed[engine].cpu for engine in later)


def _drivers(wanted: Sequence[ResolvedModel], here: HostInfo) -> list[Finding]:
    """One for each engine that is built for a newer CUDA than the driver runs."""
    if not here.inventory.gpus or not here.inventory.cuda_version:
        return []
    found = [_driver(entry, one, here) for entry, one in _on_gpus(wanted, here)]
    return list(dict.fromkeys(finding for finding in found if finding))


def _on_gpus(wanted: Sequence[ResolvedModel], here: HostInfo) -> Iterator[tuple[EngineSpec, InstalledEngine]]:
    for entry in (entry for model in wanted for entry in model.entries if entry.engine not in UNMANAGED):
        one = here.installed[entry.engine]
        if not one.cpu:
            yield entry, one


def _driver(entry: EngineSpec, one: InstalledEngine, here: HostInfo) -> Finding | None:
    """Within a major version CUDA runs on every driver for it. NVML tells the version that a process gets, and so
    that of the compatibility libraries where the container toolkit has put those in place of the driver's.
    """
    known = here.cuda_runtime(one.home)
    wanted = known or ".".join(map(str, LEAST_CUDA))
    if version(here.inventory.cuda_version)[:1] >= version(wanted)[:1]:
        return None
    certain = bool(known) and not COMPATIBLE & entry.env.keys()
    driver = f"driver {here.inventory.driver_version or '?'} runs CUDA {here.inventory.cuda_version}"
    update = f"Let the host have NVIDIA driver {driver_for(wanted)}"
    compatible = "on data-centre GPUs, get CUDA's compatibility libraries and set LD_LIBRARY_PATH to them in the `env`"
    return Finding(
        level=Level.FAIL if certain else Level.WARN,
        what=What.DRIVER,
        detail=f"{driver}, and {one.distribution} {one.version} is built for CUDA {wanted}",
        remedy=f"{update}; or, {compatible} of the model's engine: Berth goes on then",
    )
