"""Settings and HostInfo -> Plan. Pure, given the functions in `HostInfo`."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType

from berth.boot.config.otel import tracer_variables, tracing
from berth.boot.config.route_checks import check_rules, new_aliases
from berth.boot.config.settings import Settings
from berth.boot.config.variables import VARIABLES
from berth.boot.planner.allocation import shared_room
from berth.boot.planner.attached_replica import discovered
from berth.boot.planner.auto_order import by_result
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.nodes import box_warnings, known_boxes, ray_token
from berth.boot.planner.preloads import preloads
from berth.boot.planner.replicas import ReplicaBuilder, replica_names
from berth.boot.planner.requirements import check_requirements
from berth.boot.planner.resolve import ResolvedModel, resolve_models
from berth.boot.planner.revisions import as_promoted, notes, planned, revised
from berth.boot.planner.variants import allocate_variants
from berth.boot.planner.warnings import plan_warnings, span_warnings
from berth.boot.preflight import Level, require
from berth.engines.base import Engine
from berth.engines.registry import ENGINES
from berth.errors import ConfigError
from berth.plan import (
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

KEY_BYTES = 32
ADMIN_SECRET_BYTES = 32
OPEN_ACCESS = {
    OpenTo.ALL: "BERTH_API_KEYS is not set: anybody who reaches the port may use the models",
    OpenTo.PRIVATE: "BERTH_API_KEYS is not set: everybody on this machine and its private networks may use the models",
}


def make_plan(settings: Settings, host: HostInfo, *, engines: Mapping[EngineName, Engine] = ENGINES) -> Plan:
    """ConfigError with all problems of models; PlacementError or MachineError where the host lacks what they need."""
    written = settings.models
    settings = as_promoted(settings, host.history)
    nodes, boxes = known_boxes(settings, host)
    resolved = tuple(
        by_result(one, host) if one.spec.auto and one.spec in written else one for one in resolve_models(settings, host)
    )
    models, allocations = allocate_variants(resolved, settings, host, engines)
    revisions = tuple(planned(written, models, host, ignored=settings.revision == "env"))
    require(findings := check_requirements(models, settings, host))
    found = discovered(models, replica_names(models), host)
    builder = ReplicaBuilder(
        settings=settings, host=host, engines=engines, allocations=allocations, found=found, nodes=nodes
    )
    replicas = tuple(chain.from_iterable(rows := builder.replicas(models)))
    others = (*box_warnings(nodes, boxes, replicas, host), *span_warnings(settings, replicas, engines))
    room, taken = shared_room(models, allocations, settings, host)
    aliases = new_aliases(settings.routes, settings.models)
    routes = tuple(_route(one, row, taken[one.spec.name], aliases) for one, row in zip(models, rows, strict=True))
    plan = replace(
        _without_models(settings, host),
        models=routes,
        replicas=replicas,
        preloads=tuple(preloads(routes, replicas, settings.fork_engines)),
        room=room,
        revisions=revisions,
        nodes=nodes,
        boxes=boxes,
        warnings=(
            *(() if settings.api_keys else (OPEN_ACCESS[settings.open_to],)),
            *notes(revisions, host.history),
            *plan_warnings(models, allocations, replicas, found, host),
            *others,
            *(str(finding) for finding in findings if finding.level is Level.WARN),
        ),
    )
    if problems := check_rules(plan, settings.api_keys):
        raise ConfigError(problems)
    return plan


def _without_models(settings: Settings, host: HostInfo) -> Plan:
    """What the settings alone decide."""
    return Plan(
        created=host.now,
        paths=RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir),
        listen=_listen(settings),
        limits=_limits(settings),
        restarts=Restarts(failures=settings.restart_limit, window_s=settings.restart_window_s),
        logs=Logs(format=settings.log_format, level=settings.log_level, requests=settings.request_log),
        inventory=host.inventory,
        models=(),
        replicas=(),
        offline=settings.offline,
        fetch_hosts=settings.fetch_hosts,
        cors_origins=settings.cors_origins,
        affinity=settings.affinity,
        open_access=not settings.api_keys,
        metrics_key_labels=settings.metrics_key_labels,
        open_to=settings.open_to,
        trusted_proxies=settings.trusted_proxies,
        keys_file=settings.keys_file,
        tracing=tracing(settings),
        rules=settings.routes,
    )


def make_keys(settings: Settings, plan: Plan, environ: Mapping[str, str] = MappingProxyType({})) -> Keys:
    """The secrets of a plan that was made from the same settings. Keys of engines that Berth starts are new each time:
    hexadecimal, so that neither a command line nor YAML misreads one.
    """
    entries = {
        name: spec.engines[position % len(spec.engines)] if spec.engines else spec.chosen(plan.replica(name).engine)
        for spec, route in zip(revised(settings.models, plan.revisions), plan.models, strict=True)
        for position, name in enumerate(route.replicas)
    }
    given = {name: entry.api_key for name, entry in entries.items() if entry.api_key}
    made = {one.name: secrets.token_hex(KEY_BYTES) for one in plan.replicas if one.launch and one.launch.takes_key}
    return Keys(
        api_keys=settings.api_keys,
        admin_key_digest=digest(settings.admin_key) if settings.admin_key else "",
        admin_secret=secrets.token_hex(ADMIN_SECRET_BYTES),
        upstream_keys=given | made,
        engine_env={
            name: env
            for name, entry in entries.items()
            if (env := entry.env | ray_token(settings.nodes_key, plan.replica(name)))
        },
        nodes_key=settings.nodes_key,
        hub_token=settings.hf_token,
        session_secret=secrets.token_hex(KEY_BYTES),
        environ=kept_variables(environ),
        otel=tracer_variables(settings, environ),
    )


def kept_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What a model is planned again with, for a migration."""
    secret = {name for one in VARIABLES if one.secret for name in (one.name, one.file_name)}
    return {name: text for name, text in environ.items() if name.startswith("BERTH_") and name not in secret}


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


def _route(
    model: ResolvedModel, row: Sequence[Replica], room: dict[int, int], aliases: Mapping[str, str]
) -> ModelRoute:
    """`aliases`: those that rules give, each with its model."""
    own = (model.spec.name, *model.spec.aliases)
    contexts = [replica.context for replica in row if replica.context is not None]
    return ModelRoute(
        name=model.spec.name,
        aliases=(*model.spec.aliases, *(alias for alias, name in aliases.items() if name in own)),
        source=model.spec.source,
        revision=model.spec.revision,
        extra_sources=model.extra_sources,
        task=model.task,
        context=min(contexts, default=None),
        standby=model.spec.standby,
        load=model.spec.load,
        idle_unload_s=model.spec.idle_unload_s,
        idle_stop_s=model.spec.idle_stop_s,
        min_residency_s=model.spec.min_residency_s,
        max_wait_s=model.spec.max_wait_s,
        drain_timeout_s=model.spec.drain_timeout_s,
        priority=model.spec.priority,
        room=room,
        pin=model.spec.pin,
        replicas=tuple(replica.name for replica in row),
        at_start=model.spec.replicas_at_start if model.spec.replicas_at_start < model.spec.replicas else 0,
        adapters=model.adapters,
        adapter_slots=model.spec.adapter_slots,
        adapter_folder=model.spec.adapter_folder,
        adapter_rank=model.spec.adapter_rank if model.spec.adapter_slots else 0,
    )
