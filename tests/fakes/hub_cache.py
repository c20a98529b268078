"""A hub's cache with a model in it, byte for byte as huggingface_hub and Berth leave it."""

import os
from collections.abc import Mapping
from pathlib import Path

from berth.boot.checkpoints import cache
from tests.fakes.hub import LARGE, git_blob, sha256

COMMIT = "a" * 40
FILES = {
    "config.json": b'{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}',
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 1000,
}


def store(
    data_dir: Path,
    source: str = "org/chat",
    files: Mapping[str, bytes] = FILES,
    *,
    commit: str = COMMIT,
    ref: str = "main",
) -> Path:
    """The snapshot's folder."""
    home = cache.repository(cache.hub_cache(str(data_dir)), source)
    folder = home / "snapshots" / commit
    for name, content in files.items():
        blob = home / "blobs" / (sha256(content) if name.endswith(LARGE) else git_blob(content))
        for path in (blob, folder / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (folder / name).symlink_to(os.path.relpath(blob, (folder / name).parent))
    cache.write_record(home, commit, {name: len(content) for name, content in files.items()})
    cache.write_commit(home, ref, commit)
    return folder
