"""The tables of docs/models-and-cards.md: what the planner says about models on cards that need not be here.

cards.json has the facts: memory as NVML reports it, and for each model its published config.json and the bytes of its
weights (of the files, or as vLLM logged them).
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from berth.boot.checkpoints.metadata import CONFIG, ModelInfo, model_info
from berth.boot.config.models import ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo
from berth.engines.model_options import LEAST_FP8_KV
from berth.errors import PlacementError
from berth.host.installed_engines import InstalledEngine
from berth.plan import DriverState, EngineName, Gpu, GpuInventory, Replica
from berth.units import GIB, MIB

FACTS = Path(__file__).with_name("cards.json")
WEIGHTS = "model.safetensors"
# The least compute capability whose kernels compute in this format; older GPUs unpack the weights (Marlin).
NATIVE_FP8, NATIVE_FP4 = (8, 9), (10, 0)
LONG_CONTEXT = 32_768  # what agents and retrieval need
CHAT, FEW = 8192, 4  # tokens of a chat, and chats at once
ENGINE = InstalledEngine(version="0.33.0", home="/opt/engines/vllm", distribution="vllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    name: str
    memory_mib: int
    compute_capability: str
    unified: bool

    def gpu(self) -> Gpu:
        return Gpu(
            index=0,
            uuid="GPU-0",
            name=self.name,
            memory_total_bytes=self.memory_mib * MIB,
            memory_free_bytes=self.memory_mib * MIB,
            compute_capability=self.compute_capability,
            unified=self.unified,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    source: str
    precision: str
    weights_bytes: int
    weights_origin: str
    config: dict[str, Any]

    def info(self) -> ModelInfo:
        return model_info(self.source, {CONFIG: self.config}, {WEIGHTS: self.weights_bytes})


@cache
def facts() -> tuple[tuple[Card, ...], tuple[Model, ...]]:
    found = json.loads(FACTS.read_bytes())
    return (
        tuple(msgspec.convert(found["cards"], list[Card])),
        tuple(msgspec.convert(found["models"], list[Model])),
    )


def planned(model: Model, card: Card) -> Replica | None:
    """The model on one such card with nothing else on it; None where it does not fit."""
    host = HostInfo(
        inventory=GpuInventory(state=DriverState.OK, cuda_version="13.0", gpus=(card.gpu(),)),
        installed={EngineName.VLLM: ENGINE},
        memory_available_bytes=64 * GIB,
        disk_free_bytes=None,
        python="python3",
        now=0,
        describe=lambda _spec: model.info(),
        free_ports=lambda count: list(range(21000, 21000 + count)),
    )
    try:
        plan = make_plan(Settings(models=(ModelSpec(name=model.source, source=model.source),)), host)
    except PlacementError:
        return None
    return plan.replicas[0]


def cell(replica: Replica | None) -> str:
    """The context and how many requests of that length fit at once, bold where that is much."""
    if replica is None or replica.memory is None or replica.context is None:
        return "-"
    context, tokens = replica.context, replica.memory.kv_tokens
    text = f"{_thousands(context)} × {tokens // context}"  # noqa: RUF001 - a multiplication sign
    return f"**{text}**" if context >= LONG_CONTEXT and tokens >= FEW * CHAT else text


def _thousands(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else f"{tokens / 1024:.1f}k"


def card_table() -> str:
    lines = ["| card | memory | compute capability | `kv_dtype: fp8` | FP8 weights | NVFP4, MXFP4 weights |"]
    lines.append("|" + "---|" * 6)
    for card in facts()[0]:
        compute = card.gpu().capability
        memory = f"{card.memory_mib / 1024:.1f} GiB" + (", the host's" if card.unified else "")
        fp8, fp4 = ("native" if compute >= least else "unpacked" for least in (NATIVE_FP8, NATIVE_FP4))
        kv = "yes" if compute >= LEAST_FP8_KV else "no"
        lines.append(f"| {card.name} | {memory} | {card.compute_capability} | {kv} | {fp8} | {fp4} |")
    return "\n".join(lines) + "\n"


@cache
def fit_table() -> str:
    """A row for each card, a column for each model: their names are long, so they are numbered."""
    cards, models = facts()
    lines = [f"| card | {' | '.join(str(number) for number, _ in enumerate(models, 1))} |"]
    lines.append("|" + "---|" * (len(models) + 1))
    lines += [f"| {card.name} | {' | '.join(cell(planned(model, card)) for model in models)} |" for card in cards]
    return "\n".join(lines) + "\n"


def model_table() -> str:
    lines = ["| | model | weights | limit of its context |", "|---|---|---|---|"]
    for number, model in enumerate(facts()[1], 1):
        weights = f"{model.weights_bytes / 10**9:.1f} GB, {model.precision} ({model.weights_origin})"
        limit = model.info().max_position or 0
        lines.append(f"| {number} | `{model.source}` | {weights} | {limit:,} |")
    return "\n".join(lines) + "\n"
