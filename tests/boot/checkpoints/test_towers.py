from typing import Any

import pytest

from berth.boot.checkpoints.towers import is_multimodal, tower_elements

QWEN_3_VL = {"vision_config": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}}
QWEN_2_VL = {"vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4}}


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (QWEN_3_VL, 411),
        (QWEN_2_VL, 629),
        ({"vision_config": {"hidden_size": 1152}}, 0),
        ({"vision_config": {"hidden_size": "wide", "depth": True}}, 0),
        ({"vision_config": "none"}, 0),
        ({}, 0),
    ],
)
def test_counts_the_layers_of_the_tower(config: dict[str, Any], millions: int) -> None:
    assert tower_elements(config) // 10**6 == millions


def test_a_model_with_another_input_is_multimodal() -> None:
    assert is_multimodal(QWEN_3_VL)
    assert is_multimodal({"audio_config": {}})
    assert not is_multimodal({"model_type": "llama", "vision_config": None})
