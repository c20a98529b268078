"""A checkpoint in a directory of this machine: a local model, or a snapshot in the hub's cache."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from berth.boot.checkpoints.files import format_names
from berth.boot.checkpoints.metadata import (
    CONFIG,
    DOCUMENTS,
    INDEX,
    TEMPLATE,
    ModelInfo,
    model_info,
    shards,
    without_weights,
)
from berth.boot.checkpoints.model_card import card_base_models
from berth.errors import ConfigError, Problem

DOCUMENT_LIMIT_BYTES = 64 * 2**20  # tokenizer_config.json with its templates stays far below
EXAMPLE = "BERTH_MODELS=/data/models/qwen3-8b"
ALLOWED = "a directory with config.json and *.safetensors"


def describe_directory(source: str) -> ModelInfo:
    """ConfigError for a path without a model that an engine can load."""
    folder = Path(source)
    try:
        if not folder.is_dir():  # raises if a parent folder is not accessible
            reject(source, "is a file, not a directory" if folder.exists() else "does not exist", ALLOWED, EXAMPLE)
        return from_folder(source, folder)
    except OSError as error:
        reject(source, f"cannot be read: {error.strerror}", "a directory that Berth may read", EXAMPLE)


def from_folder(source: str, folder: Path) -> ModelInfo:
    """ConfigError for a folder without a complete checkpoint, OSError for an unreadable one."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    require_loadable(source, sizes, ALLOWED, EXAMPLE)
    found = read_documents(source, sizes, lambda name: (folder / name).read_bytes())
    missing = sorted(shards(found.get(INDEX)) - sizes.keys())
    if missing:  # an incomplete download
        reject(source, f"lacks {len(missing)} weight files: {format_names(missing)}", "a complete checkpoint", EXAMPLE)
    return replace(model_info(source, found, sizes, local=True), base_models=card_base_models(folder))


def read_documents(source: str, sizes: Mapping[str, int | None], read: Callable[[str], bytes]) -> dict[str, Any]:
    """The small files, parsed; broken ones are ignored. ConfigError only for an invalid config.json."""
    found: dict[str, Any] = {}
    for name in DOCUMENTS:
        if name not in sizes or (sizes[name] or 0) > DOCUMENT_LIMIT_BYTES:
            continue
        data = read(name)
        try:
            found[name] = data.decode() if name == TEMPLATE else json.loads(data)
        except (ValueError, RecursionError):
            continue
    if not isinstance(found.get(CONFIG), dict):
        reject(source, f"has a {CONFIG} that is not a JSON object", "a complete checkpoint: copy it again", EXAMPLE)
    return found


def require_loadable(source: str, sizes: Mapping[str, int | None], allowed: str, example: str) -> None:
    """ConfigError if these files are not a checkpoint in the transformers format."""
    problem = without_weights(sizes) or ("" if CONFIG in sizes else f"has no {CONFIG}")
    if problem:
        reject(source, problem, allowed, example)


def reject(source: str, reason: str, allowed: str, example: str) -> NoReturn:
    problem = Problem(variable="BERTH_MODELS", value=source, reason=reason, allowed=allowed, example=example)
    raise ConfigError([problem])
