"""The hub's cache on this machine, as huggingface_hub lays it out. Read without that library: it takes half a second
to import.

    <cache>/models--OWNER--NAME/blobs/<digest>                 the contents, each once
                               /snapshots/<commit>/<file>      links to them
                               /refs/<revision>                the commit of a branch or tag
                               /berth/<commit>.json            Berth's own: the files that engines need of this commit
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from berth.boot.checkpoints.files import lacking
from berth.boot.checkpoints.hub_files import HubModel
from berth.boot.checkpoints.metadata import INDEX
from berth.processes import replace_file

MAIN = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is needed of one commit: file name -> bytes."""

    files: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What the cache holds of a model. Whole if nothing is missing."""

    repository: Path
    folder: Path | None  # the snapshot; None: not even its commit is known
    missing: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.missing


def hub_cache(data_dir: str) -> Path:
    return Path(data_dir, "huggingface", "hub")


def keep_in(data_dir: str) -> None:
    """What the hub's library writes for itself shall lie in the data directory too: the home directory may not be
    writable. Before its import.
    """
    os.environ.setdefault("HF_XET_CACHE", str(Path(data_dir, "huggingface", "xet")))


def repository(cache_dir: str | Path, source: str) -> Path:
    return Path(cache_dir, f"models--{source.replace('/', '--')}")


def stock(cache_dir: str | Path, model: HubModel) -> Stock:
    """By Berth's record where there is one; else by what every model must have."""
    home = repository(cache_dir, model.source)
    commit = commit_of(home, model.revision)
    folder = home / "snapshots" / commit if commit else None
    if folder is None or not folder.is_dir():
        return Stock(repository=home, folder=None, missing=lacking((), None))
    record = read_record(home, folder.name)
    missing = _unlike(folder, record) if record else ()
    if record is None or (model.mistral and not any(name.startswith("consolidated") for name in record.files)):
        missing = lacking(_files(folder), _index(folder), mistral=model.mistral)
    return Stock(repository=home, folder=folder, missing=missing)


def commit_of(home: Path, revision: str | None) -> str | None:
    """The commit that a revision meant when it was last looked up."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        return (home / "refs" / (revision or MAIN)).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def write_commit(home: Path, revision: str | None, commit: str) -> None:
    """From now on the revision means this commit: the last thing that a download does."""
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
    """Adds to what was recorded before: another engine may need more of the same commit."""
    before = read_record(home, commit) or Record()
    path = record_path(home, commit)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, encoded(Record(files=before.files | files)))


def encoded(record: Record) -> bytes:
    return msgspec.json.encode(record)


def forget_listing(home: Path, commit: str) -> None:
    """Takes away the library's own list of a commit's files, if another program has left one: with it, an engine that
    is offline refuses a model which lacks no more than its pictures.
    """
    with contextlib.suppress(OSError):
        (home / "trees" / f"{commit}.json").unlink()


def present_bytes(home: Path, commit: str, files: Iterable[tuple[str, str, int]]) -> int:
    """Of these (name, blob, size) what is on the disk already, unfinished downloads included."""
    return sum(_present(home, home / "snapshots" / commit / name, blob, size) for name, blob, size in files)


def partial(blob: Path) -> Path:
    """Where the beginning of a blob lies until all of it is there; older huggingface_hub used the same name."""
    return blob.with_name(f"{blob.name}.incomplete")


def _present(home: Path, link: Path, blob: str, size: int) -> int:
    content = home / "blobs" / (blob or "none")  # a mirror may not tell what it will be called
    for path in (link, content, partial(content)):
        found = _size(path)
        if found is not None:
            return min(found, size)
    return 0


def _unlike(folder: Path, record: Record) -> tuple[str, ...]:
    return tuple(name for name, size in sorted(record.files.items()) if _size(folder / name) != size)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _files(folder: Path) -> list[str]:
    """Links into nowhere do not count."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def _index(folder: Path) -> Any:
    try:
        return json.loads((folder / INDEX).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
