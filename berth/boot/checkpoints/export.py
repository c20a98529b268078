"""`berth export`: models and compile caches of the data directory as a tar stream, for a machine without a network."""

import hashlib
import io
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from berth import __version__
from berth.boot.checkpoints import cache
from berth.boot.checkpoints.archive import (
    CACHES,
    CHUNK_BYTES,
    EXIT_USAGE,
    MANIFEST,
    Manifest,
    PackedBlob,
    PackedModel,
    is_cache_path,
    is_digest,
    settings_of,
)
from berth.boot.checkpoints.files import HubModel, format_names
from berth.boot.checkpoints.progress_bar import ProgressBar, amount
from berth.boot.checkpoints.sources import models_of
from berth.boot.config.settings import Settings
from berth.errors import ArchiveError, ConfigError, Problem, UnwritableError

EXAMPLE = "docker run --rm -v berth:/data berth export > berth.tar"


def export(environ: Mapping[str, str], names: Sequence[str], out: BinaryIO) -> int:
    """Writes the tar to `out`: the models with these names or hub ids; by default those of BERTH_MODELS, else all
    complete ones. Progress goes to standard error. The exit code; ConfigError for an incomplete requested model.
    """
    if out.isatty():
        _print(f"berth export: standard output is a terminal, but a tar is written to it. Example: {EXAMPLE}")
        return EXIT_USAGE
    settings = settings_of(environ)
    hub_cache = cache.hub_cache(settings.data_dir)
    unknown = [name for name in names if not _named(name, settings, hub_cache)]
    if unknown:
        known = ", ".join(_sources(hub_cache)) or "none"
        _print(f"berth export: unknown model {', '.join(unknown)}; {hub_cache} has: {known}")
        return EXIT_USAGE
    if names or settings.models:
        requested = [model for name in names for model in _named(name, settings, hub_cache)]
        if not names:
            requested = [model for spec in settings.models for model in models_of(spec)]
        snapshots = _requested_snapshots(requested, hub_cache)
    else:
        snapshots = list(_complete_snapshots(hub_cache))
    try:
        _Export(settings, snapshots).write(out)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnwritableError(f"{error.filename or 'standard output'}: {error.strerror}") from error
    return 0


def _sources(hub_cache: Path) -> list[str]:
    """The repositories in the cache. As in the hub's library, "--" in a folder's name stands for "/"."""
    folders = sorted(folder.name for folder in hub_cache.glob("models--*") if (folder / "snapshots").is_dir())
    return [folder.removeprefix("models--").replace("--", "/") for folder in folders]


def _named(name: str, settings: Settings, hub_cache: Path) -> tuple[HubModel, ...]:
    specs = [spec for spec in settings.models if name in (spec.name, spec.source)]
    found = tuple(model for spec in specs for model in models_of(spec))
    return found or ((HubModel(source=name),) if name in _sources(hub_cache) else ())


def _requested_snapshots(models: Sequence[HubModel], hub_cache: Path) -> list[cache.CachedSnapshot]:
    """ConfigError with the missing files of all models."""
    snapshots, problems = [], []
    for model in dict.fromkeys(models):
        snapshot = cache.cached_snapshot(hub_cache, model)
        snapshots.append(snapshot)
        if not snapshot.complete:
            problems.append(
                Problem(
                    variable="MODEL",
                    value=model.source,
                    reason=f"lacks {format_names(snapshot.missing)} in {snapshot.folder or snapshot.repository}",
                    allowed="complete models: finish the download with `berth fetch`",
                    example=EXAMPLE,
                )
            )
    if problems:
        raise ConfigError(problems)
    return snapshots


def _complete_snapshots(hub_cache: Path) -> Iterator[cache.CachedSnapshot]:
    """All complete ones; others are reported."""
    for source in _sources(hub_cache):
        for folder in sorted((cache.repository(hub_cache, source) / "snapshots").iterdir()):
            snapshot = cache.cached_snapshot(hub_cache, HubModel(source=source, revision=folder.name))
            if snapshot.complete:
                yield snapshot
            else:
                _print(f"skipped: {source} at {folder.name[:12]} lacks {format_names(snapshot.missing)}")


@dataclass(frozen=True, slots=True)
class _File:
    """A member with the content of a file."""

    name: str
    path: Path
    size: int
    sha256: str = ""  # "": its name is its digest


class _Hashing:
    """A file with the digest of the bytes read so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _Export:
    def __init__(self, settings: Settings, snapshots: Sequence[cache.CachedSnapshot]) -> None:
        data_dir = Path(settings.data_dir)
        self._models = [_packed(snapshot) for snapshot in snapshots]
        self._caches: list[_File] = []  # regular files only: no links, locks or sockets
        for path in (path for folder in CACHES for path in sorted((data_dir / folder).rglob("*"))):
            if not path.is_file() or path.is_symlink() or path.suffix in (".lock", ".tmp"):
                continue
            name = str(PurePosixPath(path.relative_to(data_dir)))
            if is_cache_path(name):
                self._caches.append(_File(name, path, path.stat().st_size, _sha256(path)))
            else:
                _print(f"skipped: {name!r} has a name that `berth import` rejects")
        models = tuple(model for model, _ in self._models)
        self._manifest = Manifest(
            berth=__version__,
            created=int(time.time()),
            models=models,
            caches={file.name: PackedBlob(size=file.size, sha256=file.sha256) for file in self._caches},
        )
        self._total = sum(model.size for model in models) + self._manifest.cache_bytes
        self._done = 0
        self._bar = ProgressBar("Exporting", sys.stderr)

    def write(self, out: BinaryIO) -> None:
        with tarfile.open(fileobj=out, mode="w|", bufsize=CHUNK_BYTES, format=tarfile.PAX_FORMAT) as tar:
            self._text(tar, MANIFEST, self._manifest.to_json())
            for model, files in self._models:  # references last: a truncated tar leaves no model that looks complete
                for file in files:
                    self._file(tar, file)
                for name, blob in model.links.items():
                    up = "../" * (name.count("/") + 2)
                    info = _info(f"{model.folder}/snapshots/{model.commit}/{name}")
                    info.type, info.linkname = tarfile.SYMTYPE, f"{up}blobs/{blob}"
                    tar.addfile(info)
                if model.record is not None:
                    record = cache.Record(files=model.record)
                    self._text(tar, f"{model.folder}/berth/{model.commit}.json", cache.encoded(record))
                for revision in model.revisions:
                    self._text(tar, f"{model.folder}/refs/{revision}", model.commit.encode())
            for file in self._caches:
                self._file(tar, file)
        out.flush()
        self._bar.finish(self._total)
        for model in self._manifest.models:
            _print(f"exported {model.source} ({model.commit[:12]}): {len(model.links)} files, {amount(model.size)}")
        _print(f"exported {len(self._caches)} files of compile caches, {amount(self._manifest.cache_bytes)}")
        _print(f"the archive's digest is {self._manifest.digest}")

    def _file(self, tar: tarfile.TarFile, file: _File) -> None:
        info = _info(file.name)
        info.size = file.size
        try:
            with file.path.open("rb") as content:
                hashing = _Hashing(content)
                tar.addfile(info, cast("IO[bytes]", hashing) if file.sha256 else content)
        except OSError as error:
            if error.errno is not None and error.filename is None:  # of standard output: closed, or its disk is full
                raise
            raise ArchiveError(f"{file.path} changed during the export ({error}): export again") from error
        if file.sha256 and hashing.hexdigest() != file.sha256:
            raise ArchiveError(f"{file.path} changed during the export: export again while no engine is starting")
        self._done += file.size
        self._bar.show(self._done, self._total)

    @staticmethod
    def _text(tar: tarfile.TarFile, name: str, data: bytes) -> None:
        info = _info(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def _packed(snapshot: cache.CachedSnapshot) -> tuple[PackedModel, list[_File]]:
    """The manifest's entry of a snapshot, and the files with its blobs."""
    assert snapshot.folder is not None  # noqa: S101 - it is complete
    home, commit = snapshot.repository, snapshot.folder.name
    links, contents = {}, {}
    for path in sorted(path for path in snapshot.folder.rglob("*") if path.is_file()):
        blob = path.readlink().name if path.is_symlink() else _sha256(path)  # some file systems have no links
        links[str(path.relative_to(snapshot.folder))] = blob
        contents[blob] = path
    refs = home / "refs"
    revisions = [path for path in sorted(refs.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    record = cache.read_record(home, commit)
    model = PackedModel(
        source=home.name.removeprefix("models--").replace("--", "/"),
        repository=home.name,
        commit=commit,
        revisions=tuple(
            str(path.relative_to(refs)) for path in revisions if path.read_text(encoding="utf-8").strip() == commit
        ),
        blobs={
            blob: PackedBlob(size=path.stat().st_size, sha256="" if is_digest(blob) else _sha256(path))
            for blob, path in contents.items()
        },
        links=links,
        record=record.files if record else None,
    )
    folder = PurePosixPath(model.folder, "blobs")
    return model, [_File(f"{folder}/{blob}", path, model.blobs[blob].size) for blob, path in contents.items()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _info(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    info.mtime = int(time.time())
    return info


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - standard output is the tar
