"""LoRA adapters: rank and size from their small files, and whether an engine can load them."""

from collections.abc import Mapping
from pathlib import Path

from berth.boot.checkpoints.local import reject
from berth.boot.config.model_spec import AdapterSpec
from berth.lora_files import ALLOWED, CONFIG, AdapterError, described, files_in
from berth.plan import Adapter

EXAMPLE = "adapters: {support: owner/support-lora}"


def from_folder(spec: AdapterSpec, folder: Path) -> Adapter:
    """ConfigError for a folder without a LoRA adapter, or with one that no engine can load."""
    try:
        if not folder.is_dir():
            reject(spec.source, "is a file, not a directory" if folder.exists() else "does not exist", ALLOWED, EXAMPLE)
        sizes = files_in(folder)
        document = (folder / CONFIG).read_bytes() if CONFIG in sizes else b""
    except OSError as error:
        reject(spec.source, f"cannot be read: {error.strerror}", "a directory that Berth may read", EXAMPLE)
    return read(spec, sizes, document)


def read(spec: AdapterSpec, sizes: Mapping[str, int | None], document: bytes) -> Adapter:
    """`sizes`: every file of the adapter, in bytes. `document`: its adapter_config.json. ConfigError as above."""
    try:
        return described(spec.name, spec.source, sizes, document)
    except AdapterError as error:
        reject(spec.source, str(error), error.allowed, EXAMPLE)
