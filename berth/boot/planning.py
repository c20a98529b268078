"""From the settings and what this machine is to the Plan. Pure, given the functions in `Surroundings`."""

import hashlib
from collections.abc import Mapping, Sequence

from berth.boot.allotment import Allotment, Entry, allot
from berth.boot.placement import UNKNOWN_CONTEXT
from berth.boot.replicas import Builder, replicas
from berth.boot.settings import Settings
from berth.boot.surroundings import Surroundings
from berth.boot.wanted import UNMANAGED, WantedModel, wanted_models
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

GIB = 2**30


def make_plan(settings: Settings, here: Surroundings, *, engines: Mapping[EngineName, Engine] = ENGINES) -> Plan:
    """ConfigError with all problems of the models, PlacementError where they do not fit."""
    wanted = wanted_models(settings, here)
    allotments = allot(wanted, settings, here, engines)
    rows = replicas(wanted, Builder(settings=settings, here=here, engines=engines, allotments=allotments))
    return Plan(
        created=here.now,
        paths=RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir),
        listen=Listen(host=settings.host, port=settings.port, workers=settings.workers),
        limits=_limits(settings),
        restarts=Restarts(failures=settings.restart_limit, window_s=settings.restart_window_s),
        logs=Logs(format=settings.log_format, level=settings.log_level),
        inventory=here.inventory,
        models=tuple(_route(model, row) for model, row in zip(wanted, rows, strict=True)),
        replicas=tuple(replica for row in rows for replica in row),
        open_access=not settings.api_keys,
        warnings=(*_warnings(settings, here, wanted), *_context_warnings(wanted, allotments)),
    )


def make_keys(settings: Settings, plan: Plan) -> Keys:
    """The secrets of a plan that was made from the same settings."""
    return Keys(
        api_key_digests=tuple(_digest(key) for key in settings.api_keys),
        admin_key_digest=_digest(settings.admin_key) if settings.admin_key else "",
        upstream_keys={
            name: entry.api_key
            for spec, route in zip(settings.models, plan.models, strict=True)
            for entry, name in zip(spec.engines, route.replicas, strict=False)  # no entries: Berth chose the engine
            if entry.api_key
        },
    )


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        first_token_timeout_s=settings.first_token_timeout_s,
        token_timeout_s=settings.token_timeout_s,
        queue_timeout_s=settings.queue_timeout_s,
        client_stall_timeout_s=settings.client_stall_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
    )


def _route(model: WantedModel, row: Sequence[Replica]) -> ModelRoute:
    contexts = [replica.context for replica in row if replica.context is not None]
    return ModelRoute(
        name=model.spec.name,
        aliases=model.spec.aliases,
        source=model.spec.source,
        task=model.task,
        context=min(contexts, default=None),
        standby=model.spec.standby,
        replicas=tuple(replica.name for replica in row),
    )


def _warnings(settings: Settings, here: Surroundings, wanted: Sequence[WantedModel]) -> list[str]:
    access = [] if settings.api_keys else ["BERTH_API_KEYS is not set: anybody who reaches the port may use the models"]
    models = [f"{model.spec.name}: {note}" for model in wanted for note in _model_warnings(model, here)]
    return [*access, *_gpu_warnings(here, wanted), *models, *_disk_warnings(settings, here, wanted)]


def _gpu_warnings(here: Surroundings, wanted: Sequence[WantedModel]) -> list[str]:
    """Nothing about GPUs where no model could use one."""
    if all(model.info is None for model in wanted):
        return []
    found = here.inventory
    notes = [found.reason] if found.state in (DriverState.OK, DriverState.FAILED) and found.reason else []
    mig = ", ".join(str(gpu.index) for gpu in found.gpus if gpu.mig)
    return [*notes, f"cut into MIG instances and left out: GPU {mig}"] if mig else notes


def _model_warnings(model: WantedModel, here: Surroundings) -> list[str]:
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


def _context_warnings(wanted: Sequence[WantedModel], allotments: Mapping[Entry, Allotment]) -> list[str]:
    """Where less context than the model can do is all that its GPUs hold."""
    found = []
    for model in wanted:
        limit = model.info.max_position if model.info else None
        own = [one for (name, _position), one in allotments.items() if name == model.spec.name and one.gpus]
        if own and limit and model.spec.context is None and own[0].context < limit:
            room = f"context {own[0].context} of the model's {limit} tokens is what fits on {len(own[0].gpus)} GPU(s)"
            found.append(f"{model.spec.name}: {room}: `gpus: {2 * len(own[0].gpus)}` gives it more, if you have them")
    return found


def _disk_warnings(settings: Settings, here: Surroundings, wanted: Sequence[WantedModel]) -> list[str]:
    infos = {model.info.source: model.info for model in wanted if model.info}
    missing = sum(info.weights_bytes or 0 for info in infos.values() if not info.local)
    if here.disk_free_bytes is None or missing <= here.disk_free_bytes:
        return []
    free = f"BERTH_DATA={settings.data_dir!r} has {here.disk_free_bytes / GIB:.1f} GiB free"
    return [f"{free}, the models to download take {missing / GIB:.1f} GiB"]
