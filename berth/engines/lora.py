"""LoRA adapters on the engines' command lines. The first part of each name below is the engine that has the option."""

from collections.abc import Sequence
from typing import Final

import orjson

from berth.engines.base import LaunchOrder
from berth.plan import Adapter

MOST_AT_ONCE: Final = 8  # of the adapters of a model in one batch; requests for further ones wait for a place
GUESSED_RANK: Final = 64  # of an adapter of which nothing is known
VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # all that --max-lora-rank takes


def rank(adapters: Sequence[Adapter]) -> int:
    """The largest of them, rounded up to what vLLM takes: room for it is made in advance."""
    largest = max(adapter.rank or GUESSED_RANK for adapter in adapters)
    return next((able for able in VLLM_RANKS if able >= largest), VLLM_RANKS[-1])


def places(adapters: Sequence[Adapter]) -> int:
    return min(len(adapters), MOST_AT_ONCE)


def vllm_arguments(order: LaunchOrder) -> list[str]:
    """An adapter's name is one of the names of models then."""
    if not order.adapters:
        return []
    modules = [_json({"name": adapter.name, "path": adapter.source}) for adapter in order.adapters]
    return [
        *("--enable-lora", "--max-lora-rank", str(rank(order.adapters)), "--max-loras", str(places(order.adapters))),
        *("--max-cpu-loras", str(len(order.adapters))),
        *("--lora-modules", *modules),
    ]


def sglang_arguments(order: LaunchOrder) -> list[str]:
    """It finds the ranks by itself. Of its places one is for requests without an adapter."""
    if not order.adapters:
        return []
    paths = [_json({"lora_name": adapter.name, "lora_path": adapter.source}) for adapter in order.adapters]
    return [
        *("--enable-lora", "--max-loras-per-batch", str(places(order.adapters) + 1)),
        *(("--lora-backend", "torch_native") if not order.gpus else ()),
        *("--lora-paths", *paths),
    ]


def _json(document: dict[str, str]) -> str:
    return orjson.dumps(document).decode()
