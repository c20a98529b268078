"""The files of a LoRA adapter, as PEFT writes them: adapter_config.json, and adapter_model.safetensors (or .bin) with
its weights. https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from berth.plan import Adapter

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model."
ALLOWED: Final = f"a LoRA adapter: {CONFIG} and {WEIGHTS}safetensors"
LARGEST_RANK: Final = 512  # what vLLM takes
LARGEST_CONFIG: Final = 64 * 2**20
_LARGEST_HEADER: Final = 100 * 2**20  # what safetensors takes
_LENGTH: Final = struct.Struct("<Q")


class AdapterError(ValueError):
    """No engine can load it. `allowed`: what one can."""

    def __init__(self, reason: str, allowed: str = ALLOWED) -> None:
        super().__init__(reason)
        self.allowed = allowed


def files_in(folder: Path) -> dict[str, int]:
    """Their sizes in bytes. OSError where they cannot be read."""
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}


def described(name: str, source: str, sizes: Mapping[str, int | None], document: bytes) -> Adapter:
    """`sizes`: every file of the adapter, in bytes. `document`: its adapter_config.json. AdapterError for files that no
    engine can load as an adapter.
    """
    if CONFIG not in sizes:
        raise AdapterError(f"has no {CONFIG}")
    weights = [size for file, size in sizes.items() if file.startswith(WEIGHTS)]
    if not weights:
        raise AdapterError(f"has no {WEIGHTS}safetensors")
    try:
        config = json.loads(document) if len(document) <= LARGEST_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise AdapterError(f"has an {CONFIG} that is not a JSON object", "a complete adapter")
    if problem := unsupported_reason(config):
        raise AdapterError(problem, f"a LoRA adapter of PEFT with a rank up to {LARGEST_RANK}, no DoRA")
    known = [size for size in weights if size is not None]
    return Adapter(name=name, source=source, rank=_rank(config), weights_bytes=sum(known) or None)


def unsupported_reason(config: Mapping[str, Any]) -> str:
    """Why no engine can load the adapter with this config; empty if one can."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        return f"is not a LoRA adapter but {str(kind)[:40]!r}"
    rank = _rank(config)
    if not 0 < rank <= LARGEST_RANK:
        return f"has a rank of {rank}"
    return "uses DoRA (use_dora), which no engine loads" if config.get("use_dora") else ""


def incomplete_reason(weights: Path) -> str:
    """What is missing of a file of weights; empty for a complete one, and for one that does not show it. OSError where
    it cannot be read.
    """
    if weights.suffix != ".safetensors":
        return ""
    size = weights.stat().st_size
    with weights.open("rb") as opened:
        start = opened.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
        header = opened.read(length) if length <= _LARGEST_HEADER else b""
    try:
        tensors = json.loads(header)
        ends = [one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__"]
        needed = _LENGTH.size + length + max(ends, default=0)
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        return f"has a {weights.name} that is incomplete, or no safetensors file"
    return "" if size == needed else f"has a {weights.name} of {size} bytes instead of {needed}"


def _rank(config: Mapping[str, Any]) -> int:
    """The largest, since modules may have their own; 0 if there is none."""
    pattern = config.get("rank_pattern")
    several = pattern.values() if isinstance(pattern, dict) else ()
    ranks = [rank for rank in (config.get("r"), *several) if isinstance(rank, int) and not isinstance(rank, bool)]
    return max(ranks, default=0)
