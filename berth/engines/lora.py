"""LoRA adapters on the engines' command lines, and the memory slots that they need."""

from collections.abc import Sequence
from typing import Final

import orjson

from berth.engines.base import LaunchOrder
from berth.plan import Adapter

MOST_AT_ONCE: Final = 8  # adapters of a model in one batch; requests for further ones are queued
GUESSED_RANK: Final = 64  # of an adapter of unknown rank
VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # all values of --max-lora-rank


def rank(adapters: Sequence[Adapter]) -> int:
    """The largest rank, rounded up to a value that vLLM accepts: it allocates memory for that rank at its start."""
    largest = max(adapter.rank or GUESSED_RANK for adapter in adapters)
    return next((able for able in VLLM_RANKS if able >= largest), VLLM_RANKS[-1])


def slots(adapters: Sequence[Adapter]) -> int:
    return min(len(adapters), MOST_AT_ONCE)


def spare(slots: int, largest_rank: int) -> tuple[Adapter, ...]:
    """Those that may be added while the engine serves, as far as memory is concerned."""
    return (Adapter(name="", source="", rank=largest_rank),) * slots


def vllm_arguments(order: LaunchOrder) -> list[str]:
    """An adapter is requested by its name, like a model."""
    room = (*order.adapters, *spare(order.adapter_slots, order.adapter_rank))
    if not room:
        return []
    modules = [_json({"name": adapter.name, "path": adapter.source}) for adapter in order.adapters]
    return [
        *("--enable-lora", "--max-lora-rank", str(rank(room)), "--max-loras", str(slots(room))),
        *("--max-cpu-loras", str(len(room))),
        *(("--lora-modules", *modules) if modules else ()),
    ]


def sglang_arguments(order: LaunchOrder) -> list[str]:
    """SGLang reads the ranks itself, except for adapters that come later. One of its slots is for requests without an
    adapter.
    """
    room = (*order.adapters, *spare(order.adapter_slots, order.adapter_rank))
    if not room:
        return []
    paths = [_json({"lora_name": adapter.name, "lora_path": adapter.source}) for adapter in order.adapters]
    return [
        *("--enable-lora", "--max-loras-per-batch", str(slots(room) + 1)),
        *(("--max-lora-rank", str(rank(room)), "--lora-target-modules", "all") if order.adapter_slots else ()),
        *(("--max-loaded-loras", str(max(len(room), slots(room) + 1))) if order.adapter_slots else ()),
        *(("--lora-backend", "torch_native") if not order.gpus else ()),
        *(("--lora-paths", *paths) if paths else ()),
    ]


def _json(document: dict[str, str]) -> str:
    return orjson.dumps(document).decode()
