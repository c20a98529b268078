"""The replicas of a plan: their names, addresses, probes and command lines."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import EngineSpec
from berth.boot.config.otel import tracing
from berth.boot.config.settings import Settings
from berth.boot.planner.attached_replica import attached_replica
from berth.boot.planner.fit.gpu_request import Allocation, Entry
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.measurements import compared_as, measured_as
from berth.boot.planner.model_options import engine_options
from berth.boot.planner.nodes import rank_facts, ranks_of
from berth.boot.planner.origins import origins
from berth.boot.planner.resolve import ResolvedModel
from berth.dialects.attached.detection import Discovery
from berth.engines.base import Engine, LaunchOrder
from berth.engines.cli_arguments import option
from berth.engines.lora import spare
from berth.engines.ray import ray_head, ray_worker
from berth.engines.registry import CHECKED_VERSIONS, probes, sleep
from berth.plan import UNIX_SCHEME, DialectName, EngineName, Listen, Nodes, Ranks, Replica, Sleep, Standby, Task

SIM_CONTEXT = 8192
SIM_VOCAB = 32000
RELOADABLE = frozenset(  # values of vLLM's --load-format
    {"auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "mistral", "npcache", "pt", "runai_streamer"}
)
LONGEST_NAME = 60
FOLLOWER_STOP_S = 5.0  # it ignores SIGTERM while the head lives, or waits for it
LONGEST_SOCKET = 107  # bytes of a path that the kernel binds
STANDBY_REASONS = {  # of a replica after the first; {} is the one before it
    Standby.HOT: "runs next to {} (standby: hot)",
    Standby.WARM: "sleeps until {} fails, then serves (standby: warm)",
    Standby.COLD: "starts when {} has failed permanently (standby: cold)",
}
WEIGHT_OPTION = re.compile(r"--(?:quantization|dtype|load-format|lora-[a-z]+)[= ]\S+|-q \S+")


def replica_names(models: Sequence[ResolvedModel]) -> list[list[str]]:
    """The model and the engine in [a-z0-9.-], with a number where that is taken: chat-vllm, chat-vllm-2."""
    taken: set[str] = set()
    rows = []
    for model in models:
        slug = re.sub(r"[^a-z0-9.]+", "-", model.spec.name.lower())[:LONGEST_NAME].strip("-.") or "model"
        row = []
        for entry in model.entries:
            engine = "attached" if entry.engine is EngineName.REMOTE else entry.engine
            name, number = f"{slug}-{engine}", 1
            while name in taken:
                number += 1
                name = f"{slug}-{engine}-{number}"
            taken.add(name)
            row.append(name)
        rows.append(row)
    return rows


def socket_path(run_dir: str, name: str) -> str:
    """The Unix socket of a replica whose engine can listen at one; "" where the path is too long."""
    path = f"{run_dir}/{name}.sock"
    return path if len(os.fsencode(path)) <= LONGEST_SOCKET else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaBuilder:
    """Makes the replicas of one plan."""

    settings: Settings
    host: HostInfo
    engines: Mapping[EngineName, Engine]
    allocations: Mapping[Entry, Allocation]
    found: Mapping[str, Discovery]  # of each attached server, by the name of its replica
    nodes: Nodes | None = None  # the boxes that work together

    def replicas(self, models: Sequence[ResolvedModel]) -> list[list[Replica]]:
        """For each model its replicas in fallback order."""
        names = replica_names(models)
        pairs = [
            pair for model, row in zip(models, names, strict=True) for pair in zip(model.entries, row, strict=True)
        ]
        with_port = [
            name for entry, name in pairs if entry.engine is not EngineName.REMOTE and not self._socket(entry, name)
        ]
        ports = dict(zip(with_port, self.host.free_ports(len(with_port)), strict=True))
        return [
            [
                attached_replica(model, model.entries[number], name, self.found[name])
                if name in self.found
                else self._replica(model, number, row, ports.get(name, 0))
                for number, name in enumerate(row)
            ]
            for model, row in zip(models, names, strict=True)
        ]

    def _replica(self, model: ResolvedModel, number: int, names: Sequence[str], port: int) -> Replica:
        entry, name = model.entries[number], names[number]
        engine = self.engines[entry.engine]
        dialect = entry.dialect or engine.dialect
        ready, alive = probes(entry.engine, dialect)
        order = self._order(model, number, name, port)
        ranks, info = order.ranks, None if order.ranks else model.info
        launch = ray_worker if ranks and ranks.ray and ranks.rank else engine.launch
        return Replica(
            name=name,
            model=model.spec.name,
            engine=entry.engine,
            dialect=dialect,
            version=order.version,
            checked_versions=CHECKED_VERSIONS.get(entry.engine, ()) if order.version else (),
            task=model.task,
            url=f"{UNIX_SCHEME}{order.socket}" if order.socket else f"http://{order.host}:{port}",
            served_name=order.served_name,
            gpus=tuple(gpu.index for gpu in order.gpus),
            memory=order.memory,
            memory_fraction=order.memory_fraction,
            measured_as=measured_as(model, info, number, self.host, order.gpus) if info else None,
            compared_as=compared_as(model, number, self.host, order.gpus),
            context=order.context,
            share=entry.share,
            concurrency=model.spec.concurrency or engine.concurrency(order),
            weights=weights_id(model, entry),
            pass_fields=model.spec.pass_fields,
            vocab_size=SIM_VOCAB if entry.engine is EngineName.SIM else model.vocab_size,
            launch=replace(launch(order), own_args=entry.args, own_env=tuple(entry.env)),
            ranks=replace(ranks, facts=rank_facts(model, entry, order, self.host)) if ranks else None,
            attendant=ray_head(order) if ranks and ranks.ray and not ranks.rank else None,
            ready=ready,
            alive=alive,
            sleep=sleep_calls(entry.engine, dialect, order) if order.sleeps else None,
            start_timeout_s=self.settings.start_timeout_s,
            stop_timeout_s=FOLLOWER_STOP_S if ranks and ranks.rank else engine.stop_timeout_s,
            reason=replica_reason(model, number, names),
            origins=origins(model, entry, order, self.allocations.get((model.spec.name, number))),
        )

    def _order(self, model: ResolvedModel, number: int, name: str, port: int) -> LaunchOrder:
        entry, info = model.entries[number], model.info or ModelInfo(source=model.spec.source)
        installed = self.host.installed.get(entry.engine)
        order = LaunchOrder(
            replica=name,
            served_name=model.spec.name,
            source=model.spec.source,
            revision=model.spec.revision,
            task=model.task,
            port=port,
            socket=self._socket(entry, name),
            context=model.spec.context or SIM_CONTEXT,
            dtype=info.dtype,
            model=info.facts,
            dialect=(entry.dialect or DialectName.VLLM) if entry.engine is EngineName.SIM else None,
            home=f"{self.settings.engine_home}/{entry.engine}",
            version=installed.version if installed else "",
            python=self.host.python,
            run_dir=self.settings.run_dir,
            data_dir=self.settings.data_dir,
            offline=self.settings.offline,
            fetch_hosts=self.settings.fetch_hosts,
            ranks=self._ranks(model, entry),
            traces_endpoint=self._traces_endpoint(entry),
            sleeps=(model.spec.standby is Standby.WARM and number > 0) or model.spec.sleep,
            adapters=model.adapters,
            spare_adapters=spare(model.spec.adapter_slots, model.spec.adapter_rank),
            options=engine_options(model.spec, model.options, entry.engine),
            extra_args=entry.args,
        )
        if (allocation := self.allocations.get((model.spec.name, number))) is None:
            return order
        return replace(
            order,
            gpus=allocation.gpus,
            memory=allocation.memory(self.engines[entry.engine]),
            memory_fraction=allocation.memory_fraction,
            context=allocation.context,
            context_is_a_guess=allocation.context_is_a_guess(self.engines[entry.engine]),
        )

    def _ranks(self, model: ResolvedModel, entry: EngineSpec) -> Ranks | None:
        if self.nodes is None or model.spec.nodes == 1:
            return None
        settings = self.settings
        spread = [one.name for one in settings.models if one.nodes > 1]
        head = Listen(host=self.nodes.head.address, port=settings.port, workers=1, tls_cert=settings.tls_cert)
        has_ray = bool(self.host.inventory.gpus) and self.host.has_ray(f"{settings.engine_home}/{entry.engine}")
        return ranks_of(self.nodes, spread.index(model.spec.name), entry, url=head.url(), has_ray=has_ray)

    def _traces_endpoint(self, entry: EngineSpec) -> str:
        """Of an engine that has the packages for spans, and no endpoint of the user's."""
        wanted, flags = tracing(self.settings), self.engines[entry.engine].traces_flags
        if wanted is None or not flags or option(entry.args, *flags) is not None:
            return ""
        return wanted.endpoint if self.host.can_trace(f"{self.settings.engine_home}/{entry.engine}") else ""

    def _socket(self, entry: EngineSpec, name: str) -> str:
        return socket_path(self.settings.run_dir, name) if self.engines[entry.engine].takes_socket else ""


def sleep_calls(engine: EngineName, dialect: DialectName, order: LaunchOrder) -> Sleep | None:
    """Without weights in RAM an engine sleeps only on GPUs, where they take memory, and only if it can read them again:
    vLLM crashes when it wakes with LoRA adapters, and loaders for other formats than those of the hub load once.
    """
    found = sleep(engine, dialect)
    can_reload = (
        order.gpus
        and order.task is Task.GENERATE
        and not (order.adapters or order.spare_adapters)
        and (option(order.extra_args, "--load-format") or "auto") in RELOADABLE
    )
    return found if found is None or can_reload else replace(found, light=(), reload=())


def replica_reason(model: ResolvedModel, number: int, names: Sequence[str]) -> str:
    """Why it is there, for people. `names`: of all replicas of the model."""
    spec = model.spec
    if number == 0:
        return model.reason
    if spec.replicas == 1:
        return STANDBY_REASONS[spec.standby].format(names[number - 1])
    later = "" if number < spec.replicas_at_start else f", loaded by `berth scale {spec.name} {number + 1}`"
    return f"replica {number + 1} of {spec.replicas}{later}"


def weights_id(model: ResolvedModel, entry: EngineSpec) -> str:
    """What the weights are: the source, and the args that change them. An engine continues another one's output only
    where both have the same weights.
    """
    words = [model.spec.source, *([model.spec.revision] if model.spec.revision else [])]
    if entry.engine == EngineName.SIM:
        words.insert(0, EngineName.SIM)  # it has no weights
    words += WEIGHT_OPTION.findall(" ".join(entry.args))
    return " ".join(words)
