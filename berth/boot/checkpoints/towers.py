"""The part of a multimodal model that reads images, from config.json. Pure."""

from collections.abc import Mapping
from typing import Any

OTHER_INPUTS = ("vision_config", "audio_config", "thinker_config", "vision_tower_config")


def is_multimodal(config: Mapping[str, Any]) -> bool:
    return any(isinstance(config.get(name), Mapping) for name in OTHER_INPUTS)


def tower_elements(config: Mapping[str, Any]) -> int:
    """The parameters of the vision tower's layers; it has some more. 0 without a tower, or where its size is unknown.

    Of a gated MLP only two of the three matrices count: not every configuration says whether it is one.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return 0
    width = _count(vision, "embed_dim", "hidden_size")  # Qwen2-VL has both; the other is the language model's
    inner = _count(vision, "intermediate_size") or width * _count(vision, "mlp_ratio")
    return _count(vision, "depth", "num_hidden_layers") * (4 * width**2 + 2 * width * inner)


def _count(config: Mapping[str, Any], *names: str) -> int:
    """The first of these fields with a positive number, else 0."""
    found = (config.get(name) for name in names)
    return next((int(one) for one in found if isinstance(one, int | float) and 0 < one < 2**20), 0)
