"""LoRA adapters: rank and size from their small files, and whether an engine can load them.

The files are those of PEFT: adapter_config.json, and adapter_model.safetensors (or .bin) with the weights.
https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from berth.boot.checkpoints.files import ADAPTER_CONFIG
from berth.boot.checkpoints.local import DOCUMENT_LIMIT_BYTES, reject
from berth.boot.config.model_spec import AdapterSpec
from berth.plan import Adapter

ALLOWED = f"a LoRA adapter: {ADAPTER_CONFIG} and adapter_model.safetensors"
EXAMPLE = "adapters: {support: owner/support-lora}"
LARGEST_RANK = 512  # what vLLM takes
WEIGHTS = "adapter_model."


def from_folder(spec: AdapterSpec, folder: Path) -> Adapter:
    """ConfigError for a folder without a LoRA adapter, or with one that no engine can load."""
    try:
        if not folder.is_dir():
            reject(spec.source, "is a file, not a directory" if folder.exists() else "does not exist", ALLOWED, EXAMPLE)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        document = (folder / ADAPTER_CONFIG).read_bytes() if ADAPTER_CONFIG in sizes else b""
    except OSError as error:
        reject(spec.source, f"cannot be read: {error.strerror}", "a directory that Berth may read", EXAMPLE)
    return read(spec, sizes, document)


def read(spec: AdapterSpec, sizes: Mapping[str, int | None], document: bytes) -> Adapter:
    """`sizes`: every file of the adapter, in bytes. `document`: its adapter_config.json. ConfigError as above."""
    if ADAPTER_CONFIG not in sizes:
        reject(spec.source, f"has no {ADAPTER_CONFIG}", ALLOWED, EXAMPLE)
    weights = [size for name, size in sizes.items() if name.startswith(WEIGHTS)]
    if not weights:
        reject(spec.source, f"has no {WEIGHTS}safetensors", ALLOWED, EXAMPLE)
    try:
        config = json.loads(document) if len(document) <= DOCUMENT_LIMIT_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        reject(spec.source, f"has an {ADAPTER_CONFIG} that is not a JSON object", "a complete adapter", EXAMPLE)
    if problem := unsupported_reason(config):
        reject(spec.source, problem, f"a LoRA adapter of PEFT with a rank up to {LARGEST_RANK}, no DoRA", EXAMPLE)
    known = [size for size in weights if size is not None]
    return Adapter(name=spec.name, source=spec.source, rank=_rank(config), weights_bytes=sum(known) or None)


def unsupported_reason(config: Mapping[str, Any]) -> str:
    """Why no engine can load the adapter with this config; empty if one can."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        return f"is not a LoRA adapter but {str(kind)[:40]!r}"
    rank = _rank(config)
    if not 0 < rank <= LARGEST_RANK:
        return f"has a rank of {rank}"
    return "uses DoRA (use_dora), which no engine loads" if config.get("use_dora") else ""


def _rank(config: Mapping[str, Any]) -> int:
    """The largest, since modules may have their own; 0 if there is none."""
    pattern = config.get("rank_pattern")
    several = pattern.values() if isinstance(pattern, dict) else ()
    ranks = [rank for rank in (config.get("r"), *several) if isinstance(rank, int) and not isinstance(rank, bool)]
    return max(ranks, default=0)
