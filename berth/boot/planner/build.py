"""Settings and HostInfo -> Plan. Pure, given the functions in `HostInfo`."""

import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from berth.boot.config.otel import tracer_variables, tracing
from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import shared_room
from berth.boot.planner.attached import attached_warnings, discovered
from berth.boot.planner.gpu_request import UNKNOWN_CONTEXT, Allocation, Entry
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.remote_code import code_warnings
from berth.boot.planner.replicas import ReplicaBuilder, replica_names
from berth.boot.planner.requirements import check_requirements
from berth.boot.planner.resolve import UNMANAGED, ResolvedModel, resolve_models
from berth.boot.planner.variants import allocate_variants
from berth.boot.preflight import Level, require
from berth.engines.base import Engine
from berth.engines.registry import ENGINES
from berth.host.gpus import INSTANCES
from berth.plan import (
    DriverState,
    EngineName,
    Keys,
    Limits,
    Listen,
    Logs,
    ModelRoute,
    OpenTo,
    Plan,
    Replica,
    Restarts,
    RunPaths,
)
from berth.plan.keys import SPARE_SLOTS, digest
from berth.units import size

KEY_BYTES = 32
ADMIN_SECRET_BYTES = 32
OPEN_ACCESS = {
    OpenTo.ALL: "BERTH_API_KEYS is not set: anybody who reaches the port may use the models",
    OpenTo.PRIVATE: "BERTH_API_KEYS is not set: everybody on this machine and its private networks may use the models",
}
NOTABLE_USE = 0.1  # of a GPU's memory, before Berth has started anything


def make_plan(settings: Settings, host: HostInfo, *, engines: Mapping[EngineName, Engine] = ENGINES) -> Plan:
    """ConfigError with all problems of models; PlacementError or MachineError where the host lacks what they need."""
    models, allocations = allocate_variants(resolve_models(settings, host), settings, host, engines)
    require(findings := check_requirements(models, settings, host))
    found = discovered(models, replica_names(models), host)
    builder = ReplicaBuilder(settings=settings, host=host, engines=engines, allocations=allocations, found=found)
    rows = builder.replicas(models)
    replicas = tuple(replica for row in rows for replica in row)
    room, taken = shared_room(models, allocations, settings, host)
    return Plan(
        created=host.now,
        paths=RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir),
        listen=_listen(settings),
        limits=_limits(settings),
        restarts=Restarts(failures=settings.restart_limit, window_s=settings.restart_window_s),
        logs=Logs(format=settings.log_format, level=settings.log_level, requests=settings.request_log),
        inventory=host.inventory,
        models=tuple(_route(one, row, taken[one.spec.name]) for one, row in zip(models, rows, strict=True)),
        replicas=replicas,
        offline=settings.offline,
        fetch_hosts=settings.fetch_hosts,
        cors_origins=settings.cors_origins,
        affinity=settings.affinity,
        open_access=not settings.api_keys,
        open_to=settings.open_to,
        trusted_proxies=settings.trusted_proxies,
        keys_file=settings.keys_file,
        room=room,
        tracing=tracing(settings),
        warnings=(
            *(() if settings.api_keys else (OPEN_ACCESS[settings.open_to],)),
            *gpu_warnings(host, models),
            *(f"{model.spec.name}: {note}" for model in models for note in model_warnings(model, host)),
            *context_warnings(models, allocations),
            *instance_warnings(replicas, host),
            *key_warnings(replicas),
            *([f"measured memory is ignored: {host.measured.problem}"] if host.measured.problem else []),
            *attached_warnings(replicas, found),
            *(str(finding) for finding in findings if finding.level is Level.WARN),
        ),
    )


def make_keys(settings: Settings, plan: Plan, environ: Mapping[str, str] = MappingProxyType({})) -> Keys:
    """The secrets of a plan that was made from the same settings. Keys of engines that Berth starts are new each time:
    hexadecimal, so that neither a command line nor YAML misreads one.
    """
    entries = {
        name: spec.engines[position % len(spec.engines)] if spec.engines else spec.chosen(plan.replica(name).engine)
        for spec, route in zip(settings.models, plan.models, strict=True)
        for position, name in enumerate(route.replicas)
    }
    given = {name: entry.api_key for name, entry in entries.items() if entry.api_key}
    made = {one.name: secrets.token_hex(KEY_BYTES) for one in plan.replicas if one.launch and one.launch.takes_key}
    return Keys(
        api_keys=settings.api_keys,
        admin_key_digest=digest(settings.admin_key) if settings.admin_key else "",
        admin_secret=secrets.token_hex(ADMIN_SECRET_BYTES),
        upstream_keys=given | made,
        engine_env={name: entry.env for name, entry in entries.items() if entry.env},
        hub_token=settings.hf_token,
        session_secret=secrets.token_hex(KEY_BYTES),
        otel=tracer_variables(settings, environ),
    )


def _listen(settings: Settings) -> Listen:
    return Listen(
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        first_token_timeout_s=settings.first_token_timeout_s,
        token_timeout_s=settings.token_timeout_s,
        queue_timeout_s=settings.queue_timeout_s,
        queue_size=settings.queue_size,
        client_stall_timeout_s=settings.client_stall_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
        key_slots=1 + len(settings.api_keys) + (SPARE_SLOTS if settings.api_keys else 0),
    )


def _route(model: ResolvedModel, row: Sequence[Replica], room: dict[int, int]) -> ModelRoute:
    contexts = [replica.context for replica in row if replica.context is not None]
    return ModelRoute(
        name=model.spec.name,
        aliases=model.spec.aliases,
        source=model.spec.source,
        revision=model.spec.revision,
        extra_sources=model.extra_sources,
        task=model.task,
        context=min(contexts, default=None),
        standby=model.spec.standby,
        load=model.spec.load,
        idle_unload_s=model.spec.idle_unload_s,
        min_residency_s=model.spec.min_residency_s,
        max_wait_s=model.spec.max_wait_s,
        room=room,
        pin=model.spec.pin,
        replicas=tuple(replica.name for replica in row),
        at_start=model.spec.replicas_at_start if model.spec.replicas_at_start < model.spec.replicas else 0,
        adapters=model.adapters,
        adapter_slots=model.spec.adapter_slots,
        adapter_rank=model.spec.adapter_rank if model.spec.adapter_slots else 0,
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
