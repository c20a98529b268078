"""The hub's cache on this machine, in huggingface_hub's layout. Read without that library, whose import takes 0.4 s.

<cache>/models--OWNER--NAME/blobs/<digest>                 the contents
/snapshots/<commit>/<file>      links to them
/refs/<revision>                the commit of a branch or tag
/berth/<commit>.json            Berth's record of the files that engines need
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from berth.boot.checkpoints.files import HubModel, missing_files
from berth.boot.checkpoints.metadata import INDEX
from berth.processes import replace_file

MAIN = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The files that engines need of one commit: name -> bytes."""

    files: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSnapshot:
    """A model in the cache. Complete if nothing is missing."""

    repository: Path
    folder: Path | None  # None: the cache has no snapshot of it
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.missing


def hub_cache(data_dir: str) -> Path:
    return Path(data_dir, "huggingface", "hub")


def set_library_cache(data_dir: str) -> None:
    """Moves the library's own files into the data directory, since the home directory may not be writable. Call it
    before huggingface_hub is imported.
    """
    os.environ.setdefault("HF_XET_CACHE", str(Path(data_dir, "huggingface", "xet")))


def repository(cache_dir: str | Path, source: str) -> Path:
    return Path(cache_dir, f"models--{source.replace('/', '--')}")


def cached_snapshot(cache_dir: str | Path, model: HubModel) -> CachedSnapshot:
    """Checked against Berth's record if there is one, else against what every model must have."""
    home = repository(cache_dir, model.source)
    commit = commit_of(home, model.revision)
    folder = home / "snapshots" / commit if commit else None
    if folder is None or not folder.is_dir():
        return CachedSnapshot(repository=home, folder=None, missing=missing_files((), None))
    record = read_record(home, folder.name)
    if record and (not model.mistral or any(name.startswith("consolidated") for name in record.files)):
        missing = tuple(name for name, size in sorted(record.files.items()) if _size(folder / name) != size)
    else:
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]  # no dangling links
        try:
            index = json.loads((folder / INDEX).read_bytes())
        except (OSError, ValueError, RecursionError):
            index = None
        missing = missing_files(files, index, mistral=model.mistral)
    return CachedSnapshot(repository=home, folder=folder, missing=missing)


def commit_of(home: Path, revision: str | None) -> str | None:
    """The commit of a revision when it was last looked up."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        return (home / "refs" / (revision or MAIN)).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def write_commit(home: Path, revision: str | None, commit: str) -> None:
    """Points the revision to this commit: the last step of a download."""
    if revision == commit:
        return
    path = home / "refs" / (revision or MAIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, commit.encode())


def record_path(home: Path, commit: str) -> Path:
    return home / "berth" / f"{commit}.json"


def read_record(home: Path, commit: str) -> Record | None:
    try:
        return msgspec.json.decode(record_path(home, commit).read_bytes(), type=Record)
    except (OSError, ValueError):
        return None


def write_record(home: Path, commit: str, files: dict[str, int]) -> None:
    """Adds to an existing record: another engine may need more files of the same commit."""
    before = read_record(home, commit) or Record()
    path = record_path(home, commit)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, encoded(Record(files=before.files | files)))


def encoded(record: Record) -> bytes:
    return msgspec.json.encode(record)


def delete_listing(home: Path, commit: str) -> None:
    """Deletes the library's own list of a commit's files, which another program may have written: with it, an offline
    engine rejects a model that lacks only files which no engine reads.
    """
    with contextlib.suppress(OSError):
        (home / "trees" / f"{commit}.json").unlink()


def present_bytes(home: Path, commit: str, files: Iterable[tuple[str, str, int]]) -> int:
    """The bytes of these files (name, blob, size) that are on the disk, partial downloads included."""
    total = 0
    for name, blob, size in files:
        content = home / "blobs" / (blob or "none")  # a mirror may not name the blob
        found = (_size(path) for path in (home / "snapshots" / commit / name, content, partial(content)))
        total += min(next((present for present in found if present is not None), 0), size)
    return total


def partial(blob: Path) -> Path:
    """The path of an incomplete blob; older versions of huggingface_hub used the same name."""
    return blob.with_name(f"{blob.name}.incomplete")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
