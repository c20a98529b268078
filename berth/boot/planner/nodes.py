"""Which of the boxes this one is, and what a model that runs on several of them takes of each. Pure.

The boxes are planned alike: each makes its own plan from the same variables, and control compares what they found
before it starts anything. On vLLM a box holds some of the layers (pipeline parallel), and its GPUs divide each of them
(tensor parallel): what passes between boxes is little. SGLang divides each layer among the GPUs of all boxes.
"""

import hashlib
import hmac
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace

from berth import __version__
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import EngineSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import ResolvedModel
from berth.engines.base import LaunchOrder, ModelOptions
from berth.engines.cli_arguments import option
from berth.engines.ray import TOKEN_VARIABLE
from berth.errors import ConfigError, Problem
from berth.host.interfaces import Interface, owner
from berth.plan import Box, EngineName, Nodes, Ranks, Replica
from berth.plan.ranks import differences

FASTER = 5  # times: an interface that is so much faster is the one that was meant


def own_nodes(settings: Settings, host: HostInfo) -> Nodes | None:
    """None without BERTH_NODES. ConfigError where no box of the list, or more than one, is this one."""
    if not settings.nodes:
        return None
    found = host.interfaces()
    mine = [rank for rank, box in enumerate(settings.nodes) if owner(found, box.address)]
    listed = ", ".join(map(str, settings.nodes))
    rank = settings.node if settings.node is not None else mine[0] if len(mine) == 1 else None
    if rank is None or rank not in mine:
        has = ", ".join(f"{', '.join(one.addresses)} on {one.name}" for one in found)
        names = f"none of {listed} is an address of this box" if not mine else f"{len(mine)} of {listed} are this box"
        if rank is not None:
            names = f"{settings.nodes[rank].address}, box {rank} of BERTH_NODES, is not an address of this box"
        raise ConfigError(
            [
                Problem(
                    variable="BERTH_NODES" if settings.node is None else "BERTH_NODE",
                    value=listed if settings.node is None else str(settings.node),
                    reason=f"{names}, which has {has}",
                    allowed="addresses of the boxes themselves (in a container: network_mode: host), each on its own",
                    example="BERTH_NODE=1 where several are this box's, else BERTH_NODES=10.0.0.1,10.0.0.2",
                )
            ]
        )
    interface = owner(found, settings.nodes[rank].address)
    return Nodes(boxes=settings.nodes, rank=rank, interface=interface.name if interface else "")


def known_boxes(settings: Settings, host: HostInfo) -> tuple[Nodes | None, tuple[Box, ...]]:
    """The boxes, and what those of the others say that answer now."""
    nodes = own_nodes(settings, host)
    return nodes, host.ask_boxes(nodes, settings.nodes_key) if nodes else ()


def box_warnings(nodes: Nodes | None, boxes: Sequence[Box], replicas: Sequence[Replica], host: HostInfo) -> list[str]:
    """Of a network that can hardly be meant, and of boxes that differ: their engines would not start."""
    if nodes is None:
        return []
    notes = fabric_warnings(nodes, host.interfaces())
    mine = f"box {nodes.rank} ({nodes.own})"
    for box in boxes:
        theirs = f"box {box.rank} ({nodes.boxes[box.rank]})"
        for one in (one for one in replicas if one.ranks):
            known = box.replicas.get(one.name)
            differs = [f"{theirs} has no such replica"] if known is None else []
            differs += differences(one.ranks.facts, known, mine, theirs) if known and one.ranks else []
            notes += [f"{one.name} will not start: {text}" for text in differs]
    return notes


def fabric_warnings(nodes: Nodes, found: Sequence[Interface]) -> list[str]:
    """Engines send their layers' results over it for every token."""
    own = next((one for one in found if one.name == nodes.interface), None)
    if own is None:
        return []
    where = f"BERTH_NODES: {nodes.own.address} is on {own.name}"
    if own.is_bridge:
        return [f"{where}, a bridge of this box that others do not reach: name the address of its network card"]
    faster = [one for one in found if one.up and not one.is_bridge and one.speed_mbit >= FASTER * own.speed_mbit > 0]
    return [
        f"{where} ({own.speed_mbit} Mbit/s), and {one.name} has {one.speed_mbit} Mbit/s: name {one.addresses[0]}"
        for one in faster[:1]
    ]


def ranks_of(nodes: Nodes, number: int, entry: EngineSpec, *, url: str, has_ray: bool) -> Ranks:
    """Of the model with this number among those that run on all boxes. `has_ray`: that it is installed, and that there
    are GPUs: vLLM refuses Ray on CPUs, unless one of its plug-ins knows better and `args` ask for it.
    """
    chosen = option(entry.args, "--distributed-executor-backend")
    on_ray = entry.engine is EngineName.VLLM and (chosen == "ray" or (chosen is None and has_ray))
    return Ranks(
        nodes=len(nodes.boxes),
        rank=nodes.rank,
        head=nodes.head.address,
        own=nodes.own.address,
        port=nodes.head.port + 1 + number,
        interface=nodes.interface,
        url=url,
        ray=on_ray,
    )


def rank_facts(model: ResolvedModel, entry: EngineSpec, order: LaunchOrder, host: HostInfo) -> dict[str, str]:
    """What has to be equal on all boxes (`plan.ranks.REMEDIES`). Shares of memory and variables need not be: each
    box may have its own, as the names of its network cards.
    """
    plain, options = ModelOptions(), order.options
    chosen = {one.name: getattr(options, one.name) for one in fields(options)}
    changed = [f"{name}={value}" for name, value in chosen.items() if value != getattr(plain, name)]
    changed += [f"adapter {one.source}" for one in order.adapters]
    info = model.info
    weights = (info.commit or info.weights_bytes or "") if info else ""
    kinds = Counter(gpu.name for gpu in order.gpus)
    return {
        "Berth": f"{__version__}, build {host.own_build()}",
        "engine": f"{entry.engine} {order.version}".strip(),
        "packages": host.packages(order.home) or "none of its own",
        "model": f"{order.source}@{weights}" if weights else order.source,
        "GPUs": ", ".join(f"{count} x {name}" for name, count in sorted(kinds.items())) or "none",
        "executor": "Ray" if order.ranks and order.ranks.ray else "the engine's own",
        "context": "as the engine finds" if order.context_is_a_guess else str(order.context or "the model's"),
        "options": ", ".join(changed) or "none",
        "args": " ".join(order.extra_args) or "none",
    }


def ray_token(key: str, replica: Replica) -> dict[str, str]:
    """The secret of a replica's Ray, the same on all boxes: it follows from theirs."""
    if replica.ranks is None or not replica.ranks.ray:
        return {}
    return {TOKEN_VARIABLE: hmac.new(key.encode(), f"ray:{replica.name}".encode(), hashlib.sha256).hexdigest()}


def staged(info: ModelInfo, nodes: int) -> ModelInfo:
    """What one box holds of a model: a part of its layers, the largest if they differ."""
    if nodes == 1:
        return info
    share = -(-len(info.cache_layers) // nodes)
    weights = None if info.weights_bytes is None else math.ceil(info.weights_bytes / nodes)
    return replace(info, weights_bytes=weights, cache_layers=info.cache_layers[:share])
