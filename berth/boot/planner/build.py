"""Settings and HostInfo -> Plan. Pure, given the functions in `HostInfo`."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence

from berth.boot.checkpoints.sources import extra_sources
from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import allocate
from berth.boot.planner.attached import attached_warnings, discovered
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.placement import UNKNOWN_CONTEXT, Allocation, Entry
from berth.boot.planner.replicas import ReplicaBuilder, replica_names
from berth.boot.planner.requirements import check_requirements
from berth.boot.planner.resolve import UNMANAGED, ResolvedModel, resolve_models
from berth.boot.preflight import Level, require
from berth.engines.base import Engine
from berth.engines.registry import ENGINES
from berth.plan import (
    DriverState,
    EngineName,
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
OPEN_ACCESS = "BERTH_API_KEYS is not set: anybody who reaches the port may use the models"
NOTABLE_USE = 0.1  # of a GPU's memory, before Berth has started anything


def make_plan(settings: Settings, host: HostInfo, *, engines: Mapping[EngineName, Engine] = ENGINES) -> Plan:
    """ConfigError with all problems of the models, PlacementError where they do not fit, MachineError where this host
    lacks what they need.
    """
    models = resolve_models(settings, host)
    allocations = allocate(models, settings, host, engines)
    findings = check_requirements(models, settings, host)
    require(findings)
    found = discovered(models, replica_names(models), host)
    builder = ReplicaBuilder(settings=settings, host=host, engines=engines, allocations=allocations, found=found)
    rows = builder.replicas(models)
    replicas = tuple(replica for row in rows for replica in row)
    return Plan(
        created=host.now,
        paths=RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir),
        listen=Listen(host=settings.host, port=settings.port, workers=settings.workers),
        limits=_limits(settings),
        restarts=Restarts(failures=settings.restart_limit, window_s=settings.restart_window_s),
        logs=Logs(format=settings.log_format, level=settings.log_level, requests=settings.request_log),
        inventory=host.inventory,
        models=tuple(_route(model, row) for model, row in zip(models, rows, strict=True)),
        replicas=replicas,
        offline=settings.offline,
        fetch_hosts=settings.fetch_hosts,
        cors_origins=settings.cors_origins,
        affinity=settings.affinity,
        open_access=not settings.api_keys,
        warnings=(
            *(() if settings.api_keys else (OPEN_ACCESS,)),
            *gpu_warnings(host, models),
            *(f"{model.spec.name}: {note}" for model in models for note in model_warnings(model, host)),
            *context_warnings(models, allocations),
            *key_warnings(replicas),
            *attached_warnings(replicas, found),
            *(str(finding) for finding in findings if finding.level is Level.WARN),
        ),
    )


def make_keys(settings: Settings, plan: Plan) -> Keys:
    """The secrets of a plan that was made from the same settings. Keys of engines that Berth starts are new each time:
    hexadecimal, so that neither a command line nor YAML misreads one.
    """
    entries = {
        name: spec.engines[position] if spec.engines else spec.chosen(plan.replica(name).engine)
        for spec, route in zip(settings.models, plan.models, strict=True)
        for position, name in enumerate(route.replicas)
    }
    given = {name: entry.api_key for name, entry in entries.items() if entry.api_key}
    made = {one.name: secrets.token_hex(KEY_BYTES) for one in plan.replicas if one.launch and one.launch.takes_key}
    return Keys(
        api_key_digests=tuple(_digest(key) for key in settings.api_keys),
        admin_key_digest=_digest(settings.admin_key) if settings.admin_key else "",
        upstream_keys=given | made,
        engine_env={name: entry.env for name, entry in entries.items() if entry.env},
        hub_token=settings.hf_token,
    )


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
        load=model.spec.load,
        idle_unload_s=model.spec.idle_unload_s,
        pin=model.spec.pin,
        replicas=tuple(replica.name for replica in row),
        adapters=model.adapters,
    )


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
    return [*notes, f"cut into MIG instances and not used: GPU {mig}"] if mig else notes


def model_warnings(model: ResolvedModel, host: HostInfo) -> list[str]:
    """What is unchecked or estimated about a model, and engines that leave the GPUs unused."""
    if model.info is None:
        return []
    notes = list(model.info.warnings)
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
            warnings.append(f"{model.spec.name}: {fits}: `gpus: {2 * count}` gives it more, if you have them")
    return warnings


def key_warnings(replicas: Sequence[Replica]) -> list[str]:
    """TensorRT-LLM has no key; another engine gets none only because of its options."""
    return [
        f"{replica.name}: with these args its engine takes no key: any process inside the container can use it"
        for replica in replicas
        if replica.launch and not replica.launch.takes_key and replica.engine is not EngineName.TRTLLM
    ]
