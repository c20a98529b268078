"""From the settings and what this machine is to the Plan. Pure, given the functions in `HostInfo`."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence

from berth.boot.checkpoints.sources import extra_sources
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import Allocation, Entry, allot
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.placement import UNKNOWN_CONTEXT
from berth.boot.planner.replicas import Builder, replicas
from berth.boot.planner.requirements import prerequisites
from berth.boot.planner.resolve import UNMANAGED, ResolvedModel, wanted_models
from berth.boot.preflight import Level, require
from berth.engines.base import Engine
from berth.engines.registry import ENGINES
from berth.plan import (
    DriverState,
    EngineName,
    Gpu,
    Keys,
    Limits,
    Listen,
    Logs,
    ModelRoute,
    Plan,
    Replica,
    Restarts,
    RunPaths,
)
from berth.units import size

KEY_BYTES = 32
NOTABLE_SHARE = 0.1  # of a GPU, in use before Berth has started anything


def make_plan(settings: Settings, here: HostInfo, *, engines: Mapping[EngineName, Engine] = ENGINES) -> Plan:
    """ConfigError with all problems of the models, PlacementError where they do not fit, MachineError where this
    machine lacks what they need.
    """
    wanted = wanted_models(settings, here)
    allotments = allot(wanted, settings, here, engines)
    needs = prerequisites(wanted, settings, here)
    require(needs)
    rows = replicas(wanted, Builder(settings=settings, here=here, engines=engines, allotments=allotments))
    return Plan(
        created=here.now,
        paths=RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir),
        listen=Listen(host=settings.host, port=settings.port, workers=settings.workers),
        limits=_limits(settings),
        restarts=Restarts(failures=settings.restart_limit, window_s=settings.restart_window_s),
        logs=Logs(format=settings.log_format, level=settings.log_level, requests=settings.request_log),
        inventory=here.inventory,
        models=tuple(_route(model, row) for model, row in zip(wanted, rows, strict=True)),
        replicas=tuple(replica for row in rows for replica in row),
        offline=settings.offline,
        fetch_hosts=settings.fetch_hosts,
        affinity=settings.affinity,
        open_access=not settings.api_keys,
        warnings=(
            *_warnings(settings, here, wanted),
            *_context_warnings(wanted, allotments),
            *_key_warnings(rows),
            *(str(need) for need in needs if need.level is Level.WARN),
        ),
    )


def make_keys(settings: Settings, plan: Plan) -> Keys:
    """The secrets of a plan that was made from the same settings. Those of engines that Berth starts are new each time:
    hexadecimal, so that neither a command line nor YAML takes one for something else.
    """
    entries = _entries(settings, plan)
    given = {name: entry.api_key for name, entry in entries.items() if entry.api_key}
    made = {one.name: secrets.token_hex(KEY_BYTES) for one in plan.replicas if one.launch and one.launch.takes_key}
    return Keys(
        api_key_digests=tuple(_digest(key) for key in settings.api_keys),
        admin_key_digest=_digest(settings.admin_key) if settings.admin_key else "",
        upstream_keys=given | made,
        engine_env={name: entry.env for name, entry in entries.items() if entry.env},
        hub_token=settings.hf_token,
    )


def _entries(settings: Settings, plan: Plan) -> dict[str, EngineSpec]:
    """What the user said of each replica."""
    return {
        name: _entry(spec, position, plan.replica(name))
        for spec, route in zip(settings.models, plan.models, strict=True)
        for position, name in enumerate(route.replicas)
    }


def _entry(spec: ModelSpec, position: int, replica: Replica) -> EngineSpec:
    return spec.engines[position] if spec.engines else spec.chosen(replica.engine)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        first_token_timeout_s=settings.first_token_timeout_s,
        token_timeout_s=settings.token_timeout_s,
        queue_timeout_s=settings.queue_timeout_s,
        queue_size=settings.queue_size,
        client_stall_timeout_s=settings.client_stall_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
    )


def _route(model: ResolvedModel, row: Sequence[Replica]) -> ModelRoute:
    contexts = [replica.context for replica in row if replica.context is not None]
    return ModelRoute(
        name=model.spec.name,
        aliases=model.spec.aliases,
        source=model.spec.source,
        revision=model.spec.revision,
        extra_sources=extra_sources(model.spec),
        task=model.task,
        context=min(contexts, default=None),
        standby=model.spec.standby,
        replicas=tuple(replica.name for replica in row),
        adapters=model.adapters,
    )


def _warnings(settings: Settings, here: HostInfo, wanted: Sequence[ResolvedModel]) -> list[str]:
    access = [] if settings.api_keys else ["BERTH_API_KEYS is not set: anybody who reaches the port may use the models"]
    models = [f"{model.spec.name}: {note}" for model in wanted for note in _model_warnings(model, here)]
    return [*access, *_gpu_warnings(here, wanted), *models]


def _gpu_warnings(here: HostInfo, wanted: Sequence[ResolvedModel]) -> list[str]:
    """Nothing about GPUs where no model could use one."""
    if all(model.info is None for model in wanted):
        return []
    found = here.inventory
    notes = [found.reason] if found.state in (DriverState.OK, DriverState.FAILED) and found.reason else []
    notes += [_occupied(gpu, here) for gpu in found.gpus if not gpu.mig and _share_in_use(gpu) >= NOTABLE_SHARE]
    mig = ", ".join(str(gpu.index) for gpu in found.gpus if gpu.mig)
    return [*notes, f"cut into MIG instances and left out: GPU {mig}"] if mig else notes


def _share_in_use(gpu: Gpu) -> float:
    return 1 - gpu.memory_free_bytes / max(gpu.memory_total_bytes, 1)


def _occupied(gpu: Gpu, here: HostInfo) -> str:
    """The models got what the other processes leave."""
    who = ", ".join(map(str, here.occupants().get(gpu.index, ())))
    used = f"{size(gpu.memory_total_bytes - gpu.memory_free_bytes)} of {size(gpu.memory_total_bytes)}"
    return f"GPU {gpu.index}: {used} are in use by other processes{f': {who}' if who else ' (see nvidia-smi)'}"


def _model_warnings(model: ResolvedModel, here: HostInfo) -> list[str]:
    if model.info is None:
        return []
    notes = list(model.info.warnings)
    if model.spec.context is None and model.info.max_position is None:
        notes.append(f"its context length is not known: planned with at most {UNKNOWN_CONTEXT} tokens")
    for entry in model.entries:
        one = here.installed.get(entry.engine)
        if here.inventory.gpus and entry.engine not in UNMANAGED and one and one.cpu:
            notes.append(f"{one.distribution} {one.version} is a build for the CPU: it does not use the GPUs")
    return notes


def _context_warnings(wanted: Sequence[ResolvedModel], allotments: Mapping[Entry, Allocation]) -> list[str]:
    """Where less context than the model can do is all that its GPUs hold."""
    found = []
    for model in wanted:
        limit = model.info.max_position if model.info else None
        own = [one for (name, _position), one in allotments.items() if name == model.spec.name and one.gpus]
        if own and limit and model.spec.context is None and own[0].context < limit:
            room = f"context {own[0].context} of the model's {limit} tokens is what fits on {len(own[0].gpus)} GPU(s)"
            found.append(f"{model.spec.name}: {room}: `gpus: {2 * len(own[0].gpus)}` gives it more, if you have them")
    return found


def _key_warnings(rows: Sequence[Sequence[Replica]]) -> list[str]:
    """TensorRT-LLM knows no key; that one of the others gets none is due to its options."""
    return [
        f"{replica.name}: with these args its engine takes no key: whoever is inside the container can ask it"
        for row in rows
        for replica in row
        if replica.launch and not replica.launch.takes_key and replica.engine is not EngineName.TRTLLM
    ]
