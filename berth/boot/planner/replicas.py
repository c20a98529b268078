"""The replicas of a plan: their names, addresses, probes and command lines."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from berth.boot.config.models import EngineSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import Allocation, Entry
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import ResolvedModel
from berth.engines.base import Engine, LaunchOrder
from berth.engines.registry import probes, sleep
from berth.plan import UNIX_SCHEME, DialectName, EngineName, Replica, Standby

SIM_CONTEXT = 8192
SIM_VOCAB = 32000
LONGEST_NAME = 60
LONGEST_SOCKET = 107  # bytes of a path that the kernel binds
WEIGHT_OPTION = re.compile(r"--(?:quantization|dtype|load-format|lora-[a-z]+)[= ]\S+|-q \S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """What all replicas of one plan have in common."""

    settings: Settings
    here: HostInfo
    engines: Mapping[EngineName, Engine]
    allotments: Mapping[Entry, Allocation]


def replicas(wanted: Sequence[ResolvedModel], build: Builder) -> list[list[Replica]]:
    """For each model its replicas in fallback order."""
    names = replica_names(wanted)
    started = [name for model, row in zip(wanted, names, strict=True) for name in _with_ports(model, row, build)]
    ports = dict(zip(started, build.here.free_ports(len(started)), strict=True))
    return [
        [_replica(model, number, row, ports.get(row[number], 0), build) for number in range(len(model.entries))]
        for model, row in zip(wanted, names, strict=True)
    ]


def socket_path(run_dir: str, name: str) -> str:
    """Where a replica listens whose engine takes a Unix socket; "" where the path is too long for one."""
    path = f"{run_dir}/{name}.sock"
    return path if len(os.fsencode(path)) <= LONGEST_SOCKET else ""


def replica_names(wanted: Sequence[ResolvedModel]) -> list[list[str]]:
    """The model and the engine in [a-z0-9.-], with a number where that is taken: chat-vllm, chat-vllm-2."""
    taken: set[str] = set()
    rows = []
    for model in wanted:
        row = []
        for entry in model.entries:
            name = next(name for name in _candidates(model.spec.name, entry.engine) if name not in taken)
            taken.add(name)
            row.append(name)
        rows.append(row)
    return rows


def _candidates(model: str, engine: EngineName) -> Iterator[str]:
    slug = re.sub(r"[^a-z0-9.]+", "-", model.lower())[:LONGEST_NAME].strip("-.") or "model"
    yield f"{slug}-{engine}"
    number = 2
    while True:
        yield f"{slug}-{engine}-{number}"
        number += 1


def _with_ports(model: ResolvedModel, names: Sequence[str], build: Builder) -> list[str]:
    """Those that listen at a port: Berth starts them, and there is no socket for them."""
    pairs = zip(model.entries, names, strict=True)
    return [name for entry, name in pairs if entry.engine != EngineName.REMOTE and not _socket(entry, name, build)]


def _socket(entry: EngineSpec, name: str, build: Builder) -> str:
    return socket_path(build.settings.run_dir, name) if build.engines[entry.engine].takes_socket else ""


def _replica(model: ResolvedModel, number: int, names: Sequence[str], port: int, build: Builder) -> Replica:
    entry, name = model.entries[number], names[number]
    if entry.engine == EngineName.REMOTE:
        return _attached(model, entry, name)
    engine = build.engines[entry.engine]
    dialect = entry.dialect or engine.dialect
    ready, alive = probes(entry.engine, dialect)
    order = _order(model, number, name, port, build)
    return Replica(
        name=name,
        model=model.spec.name,
        engine=entry.engine,
        dialect=dialect,
        task=model.task,
        url=f"{UNIX_SCHEME}{order.socket}" if order.socket else f"http://{order.host}:{port}",
        served_name=order.served_name,
        gpus=tuple(gpu.index for gpu in order.gpus),
        memory=order.memory,
        memory_fraction=order.memory_fraction,
        context=order.context,
        share=entry.share,
        concurrency=model.spec.concurrency or engine.concurrency(order),
        weights=_weights(model, entry),
        vocab_size=_vocab_size(model, entry),
        launch=replace(engine.launch(order), own_env=tuple(entry.env)),
        ready=ready,
        alive=alive,
        sleep=sleep(entry.engine, dialect) if order.sleeps else None,
        start_timeout_s=build.settings.start_timeout_s,
        stop_timeout_s=engine.stop_timeout_s,
        reason=model.reason if number == 0 else _standby_reason(model, names[number - 1]),
    )


def _attached(model: ResolvedModel, entry: EngineSpec, name: str) -> Replica:
    dialect = entry.dialect or DialectName.OPENAI
    ready, alive = probes(entry.engine, dialect)
    return Replica(
        name=name,
        model=model.spec.name,
        engine=entry.engine,
        dialect=dialect,
        task=model.task,
        url=entry.url or "",
        served_name=entry.remote_name or model.spec.name,
        context=model.spec.context,
        share=entry.share,
        concurrency=model.spec.concurrency,
        batch=entry.batch,
        weights=entry.weights or "",
        ready=ready,
        alive=alive,
        reason="attached by its URL",
    )


def _order(model: ResolvedModel, number: int, name: str, port: int, build: Builder) -> LaunchOrder:
    entry, info, settings = model.entries[number], model.info, build.settings
    allotment = build.allotments.get((model.spec.name, number))
    simulated = entry.engine == EngineName.SIM
    sim_context = model.spec.context or SIM_CONTEXT
    return LaunchOrder(
        replica=name,
        served_name=model.spec.name,
        source=model.spec.source,
        revision=model.spec.revision,
        task=model.task,
        port=port,
        socket=_socket(entry, name, build),
        gpus=allotment.gpus if allotment else (),
        memory=allotment.memory if allotment else None,
        memory_fraction=allotment.memory_fraction if allotment else None,
        context=allotment.context if allotment else sim_context,
        dtype=info.dtype if info else None,
        model_type=info.model_type if info else None,
        chat_template=info.chat_template if info else None,
        dialect=(entry.dialect or DialectName.VLLM) if simulated else None,
        home=f"{settings.engine_home}/{entry.engine}",
        version=installed.version if (installed := build.here.installed.get(entry.engine)) else "",
        python=build.here.python,
        run_dir=settings.run_dir,
        data_dir=settings.data_dir,
        offline=settings.offline,
        fetch_hosts=settings.fetch_hosts,
        sleeps=model.spec.standby == Standby.WARM and number > 0,
        adapters=model.adapters,
        extra_args=entry.args,
    )


def _weights(model: ResolvedModel, entry: EngineSpec) -> str:
    """The source, and what of the args changes the weights: one engine goes on with another's answer only where it
    would have given the same.
    """
    words = [model.spec.source, *([model.spec.revision] if model.spec.revision else [])]
    if entry.engine == EngineName.SIM:
        words.insert(0, EngineName.SIM)  # it only speaks as if it had them
    words += WEIGHT_OPTION.findall(" ".join(entry.args))
    return " ".join(words)


def _vocab_size(model: ResolvedModel, entry: EngineSpec) -> int | None:
    if entry.engine == EngineName.SIM:
        return SIM_VOCAB
    return model.info.vocab_size if model.info else None


def _standby_reason(model: ResolvedModel, before: str) -> str:
    if model.spec.standby == Standby.HOT:
        return f"runs beside {before} (standby: hot)"
    if model.spec.standby == Standby.WARM:
        return f"sleeps until {before} fails, then serves (standby: warm)"
    return f"starts in place of {before} when that has failed for good (standby: cold)"
