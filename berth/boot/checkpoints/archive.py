"""What `berth export` writes and `berth import` reads: a tar whose first member says what must be in it.

    berth-export.json                                   the Manifest
    huggingface/hub/models--OWNER--NAME/blobs/...       the models' files, then links, record and references to them
    cache/..., flashinfer-cubins/...                    what the engines have compiled

Unpacked by hand in the data directory it works as well; `berth import` checks every byte: compile caches are code that
engines run. Format 1 had no digests of them.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Protocol

import msgspec

from berth.boot.config import checkout
from berth.boot.config.settings import Settings, load
from berth.errors import ArchiveError

FORMAT = 2
WITHOUT_CACHES = 1  # the format whose compile caches cannot be checked
MANIFEST = "berth-export.json"
HUB = PurePosixPath("huggingface/hub")
CACHES = ("cache", "flashinfer-cubins")
NO_MODELS = "none=none@sim"  # stands in for a BERTH_MODELS that is not set: only the data directory counts
CHUNK_BYTES = 1 << 20
EXIT_USAGE = 2

_BLOB = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_REPOSITORY = re.compile(r"models--[A-Za-z0-9._-]{1,200}")
_COMMIT = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_NAME = 255  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBlob:
    size: int
    sha256: str = ""  # "": the blob's name is its digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedModel:
    """One commit of one repository."""

    source: str
    repository: str  # models--OWNER--NAME
    commit: str
    revisions: tuple[str, ...]  # branches and tags that mean this commit
    blobs: dict[str, PackedBlob]
    links: dict[str, str]  # file -> blob
    record: dict[str, int] | None = None  # what Berth knows to be needed

    @property
    def folder(self) -> PurePosixPath:
        return HUB / self.repository

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    format: int = FORMAT
    berth: str  # the version that wrote it
    created: int  # Unix seconds
    models: tuple[PackedModel, ...] = ()
    caches: dict[str, PackedBlob] = field(default_factory=dict)  # path -> what it must be

    @property
    def cache_bytes(self) -> int:
        return sum(file.size for file in self.caches.values())

    @property
    def digest(self) -> str:
        """Of all that is in the archive: told at both ends, for those who want to compare."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """ArchiveError for anything but a Manifest that stays within the data directory."""
        try:
            found = msgspec.json.decode(data, type=cls)
        except ValueError as error:
            raise ArchiveError(f"its {MANIFEST} cannot be read: {error}") from error
        if found.format not in (FORMAT, WITHOUT_CACHES):
            raise ArchiveError(
                f"it has format {found.format}, this Berth reads {WITHOUT_CACHES} and {FORMAT}: "
                "use the Berth that wrote it"
            )
        for model in found.models:
            _require_tame(model)
        _require_tame_caches(found.caches)
        return found


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def digest_of(name: str, blob: PackedBlob) -> tuple[Digest, str]:
    """What to feed a blob's bytes to, and what must come out: the hub names large files by their SHA-256, small ones
    as Git does.
    """
    if blob.sha256 or re.fullmatch(r"[0-9a-f]{64}", name):
        return hashlib.sha256(), blob.sha256 or name
    return hashlib.sha1(b"blob %d\0" % blob.size, usedforsecurity=False), name


def names_itself(blob: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob) is not None


def parts_of(path: str) -> tuple[str, ...]:
    """The parts of a relative path that leads nowhere else; ArchiveError for any other."""
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ArchiveError(f"the path {path!r} in it leads out of the data directory")
    return parts


def is_cache_path(path: str) -> bool:
    """Of a file in a folder of compile caches, in a name that can be shown: no control characters, no backslashes."""
    parts = path.split("/")
    return (
        len(parts) > 1
        and parts[0] in CACHES
        and path.isprintable()
        and "\\" not in path
        and not any(part in ("", ".", "..") or len(part.encode()) > LONGEST_NAME for part in parts)
    )


def settings_of(environ: Mapping[str, str]) -> Settings:
    """The settings, also where BERTH_MODELS is not set: then `models` is empty."""
    if environ.get("BERTH_MODELS", "").strip() or environ.get("BERTH_MODELS_FILE", "").strip():
        return load(environ, defaults=checkout.defaults(environ))
    found = load({**environ, "BERTH_MODELS": NO_MODELS}, defaults=checkout.defaults(environ))
    return replace(found, models=())


def _require_tame(model: PackedModel) -> None:
    named = [(_REPOSITORY, model.repository), (_COMMIT, model.commit), *((_BLOB, blob) for blob in model.blobs)]
    for rule, text in named:
        if not rule.fullmatch(text) or ".." in text:
            raise ArchiveError(f"the name {text!r} in it cannot be one of the hub's cache")
    for path in (*model.links, *model.revisions):
        parts_of(path)
    strangers = set(model.links.values()) - model.blobs.keys()
    if strangers or any(blob.size < 0 for blob in model.blobs.values()):
        raise ArchiveError(f"its list of the files of {model.source} contradicts itself")


def _require_tame_caches(caches: Mapping[str, PackedBlob]) -> None:
    folders = {str(parent) for path in caches for parent in PurePosixPath(path).parents}
    for path, file in caches.items():
        if not is_cache_path(path) or path in folders:
            raise ArchiveError(f"the path {path!r} in it cannot be one of a compile cache")
        if file.size < 0 or not _SHA256.fullmatch(file.sha256):
            raise ArchiveError(f"its entry for {path} has no size or no SHA-256")
