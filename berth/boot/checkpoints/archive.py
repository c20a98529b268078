"""The format of `berth export` and `berth import`: a tar whose first member is the manifest of all others.

    berth-export.json                                   the Manifest
    huggingface/hub/models--OWNER--NAME/blobs/...       blobs, then links, record and references
    cache/..., flashinfer-cubins/...                    the engines' compile caches

It can also be unpacked by hand in the data directory, but `berth import` checks every byte: compile caches are code
that engines run. Format 1 has no digests of them.
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
NO_MODELS = "none=none@sim"  # if BERTH_MODELS is not set: only the data directory is needed
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
    revisions: tuple[str, ...]  # branches and tags that point to this commit
    blobs: dict[str, PackedBlob]
    links: dict[str, str]  # file -> blob
    record: dict[str, int] | None = None  # Berth's record of the needed files

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
    caches: dict[str, PackedBlob] = field(default_factory=dict)  # path -> size and digest

    @property
    def cache_bytes(self) -> int:
        return sum(file.size for file in self.caches.values())

    @property
    def digest(self) -> str:
        """The digest of the archive's content, which export and import report for comparison."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """ArchiveError for an invalid manifest, or one with paths outside the data directory."""
        try:
            found = msgspec.json.decode(data, type=cls)
        except ValueError as error:
            raise ArchiveError(f"invalid {MANIFEST}: {error}") from error
        if found.format not in (FORMAT, WITHOUT_CACHES):
            raise ArchiveError(
                f"unsupported archive format {found.format}; this Berth reads {WITHOUT_CACHES} and {FORMAT}: "
                "use the version that wrote it"
            )
        found.validate()
        return found

    def validate(self) -> None:
        """ArchiveError for names and paths outside the hub's cache and the compile caches, and for inconsistent
        entries.
        """
        for model in self.models:
            names = [(_REPOSITORY, model.repository), (_COMMIT, model.commit), *((_BLOB, blob) for blob in model.blobs)]
            for rule, text in names:
                if not rule.fullmatch(text) or ".." in text:
                    raise ArchiveError(f"the archive's name {text!r} is not valid in the hub's cache")
            for path in (*model.links, *model.revisions):
                parts_of(path)
            unknown = set(model.links.values()) - model.blobs.keys()
            if unknown or any(blob.size < 0 for blob in model.blobs.values()):
                raise ArchiveError(f"the archive's file list of {model.source} is inconsistent")
        folders = {str(parent) for path in self.caches for parent in PurePosixPath(path).parents}
        for path, file in self.caches.items():
            if not is_cache_path(path) or path in folders:
                raise ArchiveError(f"the archive's path {path!r} is not valid in a compile cache")
            if file.size < 0 or not _SHA256.fullmatch(file.sha256):
                raise ArchiveError(f"the archive's entry for {path} has no valid size or SHA-256")


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def digest_of(name: str, blob: PackedBlob) -> tuple[Digest, str]:
    """An empty digest and the expected result: the hub names large files by their SHA-256, small ones as Git does."""
    if blob.sha256 or re.fullmatch(r"[0-9a-f]{64}", name):
        return hashlib.sha256(), blob.sha256 or name
    return hashlib.sha1(b"blob %d\0" % blob.size, usedforsecurity=False), name


def is_digest(blob: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob) is not None


def parts_of(path: str) -> tuple[str, ...]:
    """The parts of a relative path inside the data directory; ArchiveError for any other."""
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ArchiveError(f"the archive's path {path!r} is outside the data directory")
    return parts


def is_cache_path(path: str) -> bool:
    """True for a file in a folder of compile caches, without control characters and backslashes."""
    parts = path.split("/")
    return (
        len(parts) > 1
        and parts[0] in CACHES
        and path.isprintable()
        and "\\" not in path
        and not any(part in ("", ".", "..") or len(part.encode()) > LONGEST_NAME for part in parts)
    )


def settings_of(environ: Mapping[str, str]) -> Settings:
    """The settings; without BERTH_MODELS, `models` is empty."""
    if environ.get("BERTH_MODELS", "").strip() or environ.get("BERTH_MODELS_FILE", "").strip():
        return load(environ, defaults=checkout.defaults(environ))
    found = load({**environ, "BERTH_MODELS": NO_MODELS}, defaults=checkout.defaults(environ))
    return replace(found, models=())
