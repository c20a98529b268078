"""What the models need of this host, checked before any download: disk space, memory for the weights of sleeping
engines, and a driver new enough.
"""

from collections.abc import Sequence

from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import offloaded_bytes
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import UNMANAGED, ResolvedModel
from berth.boot.preflight import LEAST_CUDA, Finding, Level, What
from berth.host.disk import room_problem
from berth.host.installed_engines import driver_for, version
from berth.plan import Standby
from berth.units import size

# An engine with one of these variables has CUDA's libraries for older drivers (forward compatibility).
COMPATIBLE = frozenset({"LD_LIBRARY_PATH", "VLLM_ENABLE_CUDA_COMPATIBILITY"})
COMPATIBLE_REMEDY = (
    "or, on data-centre GPUs, get CUDA's compatibility libraries and set LD_LIBRARY_PATH to them in the `env` of the "
    "model's engine: then this is only a warning"
)


def check_requirements(models: Sequence[ResolvedModel], settings: Settings, host: HostInfo) -> list[Finding]:
    """Only failures and warnings."""
    problem = room_problem(host.download_bytes(), host.disk_free_bytes, settings.data_dir)
    disk = [Finding(level=Level.FAIL, what=What.DATA_DIR, detail=problem)] if problem else []
    return [*disk, *sleeping_weights(models, host), *offloaded_caches(models, host), *outdated_driver(models, host)]


def sleeping_weights(models: Sequence[ResolvedModel], host: HostInfo) -> list[Finding]:
    """Standbys that sleep on GPUs keep their weights in RAM, all at the same time. Models that take turns need not:
    what has no room there sleeps without its weights, or is unloaded.
    """
    weights_bytes, available = sleeping_weights_bytes(models, host, standbys=True), host.memory_available_bytes
    total = sum(weights_bytes.values())
    if total > available:
        return [
            Finding(
                level=Level.FAIL,
                what=What.RAM,
                detail=f"engines that sleep keep {size(total)} of weights in memory ({', '.join(weights_bytes)}), and "
                f"{size(available)} are available (a container's limit counts)",
                remedy="Give it more (docker run --memory), name fewer engines, or use standby: cold and sleep: false",
            )
        ]
    weights_bytes = sleeping_weights_bytes(models, host)
    if (total := sum(weights_bytes.values())) > available:
        detail = (
            f"models that may sleep have {size(total)} of weights ({', '.join(weights_bytes)}), and {size(available)}"
        )
        detail += " of memory are available: not all sleep with their weights there at the same time"
        remedy = "Others sleep without them, or are unloaded. Give the container more (docker run --memory)"
        return [Finding(level=Level.WARN, what=What.RAM, detail=detail, remedy=remedy)]
    unknown = ", ".join(name for name, bytes_ in weights_bytes.items() if not bytes_)
    if not unknown:
        return []
    detail = f"the size of the weights of {unknown} is unknown, and engines that sleep keep them in memory"
    remedy = f"They have to fit into {size(available)}"
    return [Finding(level=Level.WARN, what=What.RAM, detail=detail, remedy=remedy)]


def sleeping_weights_bytes(
    models: Sequence[ResolvedModel], host: HostInfo, *, standbys: bool = False
) -> dict[str, int]:
    """By model; 0 where the size is unknown. `standbys`: only of engines that sleep until others fail."""
    weights_bytes = {}
    for model in models:
        may_sleep = model.spec.sleep and not standbys
        if model.spec.standby is not Standby.WARM and not may_sleep:
            continue
        sleepers = model.entries if may_sleep else model.entries[1:]
        count = sum(not host.installed[one.engine].cpu for one in sleepers if one.engine not in UNMANAGED)
        if count and model.info:
            weights_bytes[model.spec.name] = count * (model.info.weights_bytes or 0)
    return weights_bytes


def offloaded_caches(models: Sequence[ResolvedModel], host: HostInfo) -> list[Finding]:
    """RAM for KV cache, which engines pin when they start, next to what sleeping engines keep."""
    caches = {model.spec.name: bytes_ for model in models if (bytes_ := offloaded_bytes(model, host))}
    asleep = sum(sleeping_weights_bytes(models, host, standbys=True).values())
    total, available = sum(caches.values()), host.memory_available_bytes
    if not total or total + asleep <= available:
        return []
    others = f", sleeping engines keep {size(asleep)}" if asleep else ""
    detail = f"kv_offload takes {size(total)} of memory ({', '.join(caches)}){others}, and {size(available)} are"
    return [
        Finding(
            level=Level.FAIL,
            what=What.RAM,
            detail=f"{detail} available (a container's limit counts)",
            remedy="Give it more (docker run --memory), or make kv_offload smaller",
        )
    ]


def outdated_driver(models: Sequence[ResolvedModel], host: HostInfo) -> list[Finding]:
    """One for each engine that is built for a newer CUDA than the driver runs.

    Within a major version CUDA runs on every driver for it. NVML reports the version that processes get, and so that of
    the compatibility libraries if the container toolkit has installed those in place of the driver's.
    """
    cuda = host.inventory.cuda_version
    if not host.inventory.gpus or not cuda:
        return []
    findings = []
    for entry in (entry for model in models for entry in model.entries if entry.engine not in UNMANAGED):
        installed = host.installed[entry.engine]
        known = host.cuda_runtime(installed.home)
        required = known or ".".join(map(str, LEAST_CUDA))
        if installed.cpu or version(cuda)[:1] >= version(required)[:1]:
            continue
        certain = bool(known) and not COMPATIBLE & entry.env.keys()
        driver = f"driver {host.inventory.driver_version or '?'} runs CUDA {cuda}"
        finding = Finding(
            level=Level.FAIL if certain else Level.WARN,
            what=What.DRIVER,
            detail=f"{driver}, and {installed.distribution} {installed.version} is built for CUDA {required}",
            remedy=f"Update the NVIDIA driver on the host to {driver_for(required)}; {COMPATIBLE_REMEDY}",
        )
        findings.append(finding)
    return list(dict.fromkeys(findings))
