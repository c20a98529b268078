from pathlib import Path

import pytest

from berth.boot.checkpoints.model_card import card_base_models


@pytest.mark.parametrize(
    ("text", "bases"),
    [
        ("---\nbase_model: Qwen/Qwen3-8B\n---\n# Card", ("Qwen/Qwen3-8B",)),
        ("---\r\nbase_model:\r\n- a/b\r\n- c/d\r\n---\r\nx", ("a/b", "c/d")),
        ("---\nbase_model: [no-owner, 5, a/b]\n---\n", ("a/b",)),
        ("---\nlicense: mit\n---\n", ()),
        ("---\nbase_model: a/b\n", ()),  # never ends
        ("# Card\n---\nbase_model: a/b\n---\n", ()),
        ("---\n- a\n---\n", ()),
        ("---\n{\n---\n", ()),
        (None, ()),
    ],
)
def test_reads_the_base_models_of_a_card(tmp_path: Path, text: str | None, bases: tuple[str, ...]) -> None:
    if text is not None:
        (tmp_path / "README.md").write_bytes(text.encode())
    assert card_base_models(tmp_path) == bases
