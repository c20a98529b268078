"""The hub's cache, made as huggingface_hub and Berth make it."""

import os
from pathlib import Path

import pytest

from berth.boot.checkpoints import cache
from berth.boot.checkpoints.files import HubModel

COMMIT = "a" * 40
MODEL = HubModel(source="org/chat")


def store(root: Path, files: dict[str, bytes], *, revision: str = "main") -> Path:
    """The repository's folder."""
    home = cache.repository(root, "org/chat")
    for number, (name, content) in enumerate(files.items()):
        blob, link = home / "blobs" / str(number), home / "snapshots" / COMMIT / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    cache.write_commit(home, revision, COMMIT)
    return home


COMPLETE = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"xyz"}


def test_snapshot_with_required_files_is_complete(tmp_path: Path) -> None:
    home = store(tmp_path, COMPLETE)
    found = cache.cached_snapshot(tmp_path, MODEL)
    assert (found.complete, found.folder, found.repository) == (True, home / "snapshots" / COMMIT, home)


def test_absent_model_lacks_everything(tmp_path: Path) -> None:
    found = cache.cached_snapshot(tmp_path, MODEL)
    assert (found.complete, found.folder) == (False, None)
    assert "config.json" in found.missing


def test_reference_without_snapshot_is_ignored(tmp_path: Path) -> None:
    cache.write_commit(cache.repository(tmp_path, "org/chat"), None, COMMIT)
    assert cache.cached_snapshot(tmp_path, MODEL).folder is None


def test_dangling_link_is_missing(tmp_path: Path) -> None:
    home = store(tmp_path, COMPLETE)
    (home / "blobs" / "0").unlink()
    assert cache.cached_snapshot(tmp_path, MODEL).missing == ("config.json",)


def test_shards_of_the_index_are_required(tmp_path: Path) -> None:
    index = b'{"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}'
    store(tmp_path, {**COMPLETE, "model.safetensors.index.json": index})
    assert cache.cached_snapshot(tmp_path, MODEL).missing == ("more.safetensors",)


def test_record_lists_required_files(tmp_path: Path) -> None:
    home = store(tmp_path, {"model.safetensors": b"xyz"})
    cache.write_record(home, COMMIT, {"model.safetensors": 3})
    assert cache.cached_snapshot(tmp_path, MODEL).complete
    cache.write_record(home, COMMIT, {"generation_config.json": 7})
    assert cache.cached_snapshot(tmp_path, MODEL).missing == ("generation_config.json",)
    (home / "blobs" / "0").write_bytes(b"xy")
    assert cache.cached_snapshot(tmp_path, MODEL).missing == ("generation_config.json", "model.safetensors")


def test_record_without_mistral_files_is_incomplete_for_mistral(tmp_path: Path) -> None:
    home = store(tmp_path, COMPLETE)
    cache.write_record(home, COMMIT, {"model.safetensors": 3})
    mistral = HubModel(source="org/chat", mistral=True)
    assert cache.cached_snapshot(tmp_path, mistral).missing == ("consolidated.safetensors",)
    cache.write_record(home, COMMIT, {"consolidated.safetensors": 3})
    assert cache.cached_snapshot(tmp_path, mistral).missing == ("consolidated.safetensors",)
    (home / "snapshots" / COMMIT / "consolidated.safetensors").write_bytes(b"xyz")
    assert cache.cached_snapshot(tmp_path, mistral).complete


def test_damaged_record_or_index_is_ignored(tmp_path: Path) -> None:
    home = store(tmp_path, {**COMPLETE, "model.safetensors.index.json": b"{"})
    cache.record_path(home, COMMIT).parent.mkdir()
    cache.record_path(home, COMMIT).write_bytes(b"{")
    assert cache.cached_snapshot(tmp_path, MODEL).complete


@pytest.mark.parametrize(("revision", "name"), [(None, "main"), ("v2", "v2"), ("refs/pr/1", "refs/pr/1")])
def test_reads_and_writes_refs_of_the_library(tmp_path: Path, revision: str | None, name: str) -> None:
    home = cache.repository(tmp_path, "org/chat")
    assert cache.commit_of(home, revision) is None
    cache.write_commit(home, revision, COMMIT)
    assert (home / "refs" / name).read_text() == COMMIT
    assert cache.commit_of(home, revision) == COMMIT


def test_commit_needs_no_reference(tmp_path: Path) -> None:
    home = cache.repository(tmp_path, "org/chat")
    cache.write_commit(home, COMMIT, COMMIT)
    assert not home.exists()
    assert cache.commit_of(home, COMMIT) == COMMIT


def test_unreadable_reference_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs/main").write_bytes(b"\xff")
    assert cache.commit_of(tmp_path, None) is None


def test_xet_cache_is_in_the_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_XET_CACHE", "")  # so that it is put back
    monkeypatch.delenv("HF_XET_CACHE")
    cache.set_library_cache("/data")
    cache.set_library_cache("/other")
    assert os.environ["HF_XET_CACHE"] == "/data/huggingface/xet"


def test_counts_present_bytes_in_every_state(tmp_path: Path) -> None:
    home = store(tmp_path, {"linked": b"12345"})
    (home / "blobs" / "done").write_bytes(b"123")
    cache.partial(home / "blobs" / "begun").write_bytes(b"12")
    files = [("linked", "", 5), ("a", "done", 3), ("b", "begun", 9), ("c", "absent", 9), ("d", "", 9)]
    assert cache.present_bytes(home, COMMIT, files) == 10
