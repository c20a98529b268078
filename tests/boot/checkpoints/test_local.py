"""Local models as they are found on real disks: complete, half copied, unreadable, or not a model."""

import json
from pathlib import Path

import pytest

from berth.boot.checkpoints.local import describe_directory
from berth.errors import ConfigError

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}


def model(folder: Path, **files: str | bytes) -> Path:
    """A checkpoint; a file's name has "__" for its dot."""
    content = {"config__json": json.dumps(CONFIG), "model__safetensors": b"x" * 50, **files}
    for name, data in content.items():
        (folder / name.replace("__", ".")).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def test_describes_a_complete_checkpoint(tmp_path: Path) -> None:
    info = describe_directory(str(model(tmp_path, chat_template__jinja="{{ messages }}")))

    assert (info.source, info.local, info.weights_bytes) == (str(tmp_path), True, 50)
    assert (info.layers, info.head_dim, info.chat_template) == (2, 16, "{{ messages }}")


def test_inaccessible_path_is_reported() -> None:
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        describe_directory("/" + "a" * 300)


def test_ignores_broken_optional_files(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"tokenizer_config__json": "{", "chat_template__jinja": b"\xff"}

    assert describe_directory(str(model(tmp_path, **files))).layers == 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        ("[" * 100000, "not a JSON"),
    ],
)
def test_rejects_truncated_config(tmp_path: Path, config: str | bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        describe_directory(str(model(tmp_path, config__json=config)))


def test_oversized_config_is_not_read(tmp_path: Path) -> None:
    model(tmp_path)
    with (tmp_path / "config.json").open("r+b") as file:
        file.truncate(2**30)

    with pytest.raises(ConfigError, match="not a JSON object"):
        describe_directory(str(tmp_path))


def test_every_missing_shard_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {str(number): f"model-{number}.safetensors" for number in range(5)}}
    model(tmp_path, model__safetensors__index__json=json.dumps(index))

    with pytest.raises(ConfigError, match=r"lacks 5 weight files: model-0.safetensors, .*model-4.safetensors"):
        describe_directory(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "no weights"),
        (["config.json"], "no weights"),
        (["model.safetensors"], "has no config.json"),
        (["model-Q4_K_M.gguf"], "GGUF"),
    ],
)
def test_rejects_folder_without_a_model(tmp_path: Path, names: list[str], reason: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")

    with pytest.raises(ConfigError, match=reason) as caught:
        describe_directory(str(tmp_path))
    assert caught.value.problems[0].value == str(tmp_path)
    assert "config.json and *.safetensors" in caught.value.problems[0].allowed


def test_rejects_path_that_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(ConfigError, match="does not exist"):
        describe_directory(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="is a file"):
        describe_directory(str(tmp_path / "file"))


def test_unreadable_file_is_reported(tmp_path: Path) -> None:
    """A directory in the place of a file cannot be read, even by root."""
    model(tmp_path)
    (tmp_path / "tokenizer_config.json").symlink_to("/proc/self/mem")

    with pytest.raises(ConfigError, match="cannot be read"):
        describe_directory(str(tmp_path))
