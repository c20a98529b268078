"""What a model card (README.md) says about a model besides its text: the model that it was made from."""

from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
HEAD_BYTES = 1 << 16  # of the file: the metadata is at its beginning
MOST_BASES = 8
FENCE = "---\n"


def card_base_models(folder: Path) -> tuple[str, ...]:
    """The hub ids below `base_model` in the card's metadata; none where there is no card, or a broken one."""
    try:
        with (folder / CARD).open("rb") as file:
            text = file.read(HEAD_BYTES).decode(errors="ignore").replace("\r\n", "\n")
        head, fence, _ = text.removeprefix(FENCE).partition(f"\n{FENCE}")
        metadata = yaml.safe_load(head) if fence and text.startswith(FENCE) else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return ()
    return base_models(metadata.get("base_model")) if isinstance(metadata, dict) else ()


def base_models(value: Any) -> tuple[str, ...]:
    """One id, or a list of them."""
    values = value if isinstance(value, list) else [value]
    return tuple(one for one in values[:MOST_BASES] if isinstance(one, str) and one.count("/") == 1)
