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
    names_itself,
    settings_of,
)
from berth.boot.checkpoints.files import listed
from berth.boot.checkpoints.hub_files import HubModel
from berth.boot.checkpoints.progress_bar import ProgressBar, amount
from berth.boot.checkpoints.sources import models_of
from berth.boot.config.settings import Settings
from berth.errors import ArchiveError, ConfigError, Problem, UnwritableError

EXAMPLE = "docker run --rm -v berth:/data berth export > berth.tar"


def export(environ: Mapping[str, str], names: Sequence[str], out: BinaryIO) -> int:
    """Writes the tar to `out`: the models of these names or hub ids; without any, those of BERTH_MODELS; without that,
    all that are whole. Standard error says what is done. The exit code; ConfigError where a wanted model is not whole.
    """
    if out.isatty():
        _tell(f"berth export: it writes a tar to standard output, and that is a terminal. Example: {EXAMPLE}")
        return EXIT_USAGE
    settings = settings_of(environ)
    hub_cache = cache.hub_cache(settings.data_dir)
    unknown = [name for name in names if not _named(name, settings, hub_cache)]
    if unknown:
        there = ", ".join(_sources(hub_cache)) or "none"
        _tell(f"berth export: no model {', '.join(unknown)} in {hub_cache}. There are: {there}")
        return EXIT_USAGE
    try:
        _Export(settings, _chosen(names, settings, hub_cache)).write(out)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnwritableError(f"{error.filename or 'standard output'}: {error.strerror}") from error
    return 0


def _sources(hub_cache: Path) -> list[str]:
    """The repositories of the cache. Like the hub's library: their names do not tell "--" from "/"."""
    folders = sorted(folder.name for folder in hub_cache.glob("models--*") if (folder / "snapshots").is_dir())
    return [folder.removeprefix("models--").replace("--", "/") for folder in folders]


def _named(name: str, settings: Settings, hub_cache: Path) -> tuple[HubModel, ...]:
    specs = [spec for spec in settings.models if name in (spec.name, spec.source)]
    found = tuple(model for spec in specs for model in models_of(spec))
    return found or ((HubModel(source=name),) if name in _sources(hub_cache) else ())


def _chosen(names: Sequence[str], settings: Settings, hub_cache: Path) -> tuple[cache.Stock, ...]:
    """ConfigError with what is missing of any of the models that were asked for."""
    wanted = [model for name in names for model in _named(name, settings, hub_cache)]
    if not names:
        wanted = [model for spec in settings.models for model in models_of(spec)]
    if not names and not settings.models:
        return tuple(_whole(hub_cache))
    stocks = {model: cache.stock(hub_cache, model) for model in dict.fromkeys(wanted)}
    problems = [_problem(model, stock) for model, stock in stocks.items() if not stock.whole]
    if problems:
        raise ConfigError(problems)
    return tuple(stocks.values())


def _whole(hub_cache: Path) -> Iterator[cache.Stock]:
    for source in _sources(hub_cache):
        for folder in sorted((cache.repository(hub_cache, source) / "snapshots").iterdir()):
            stock = cache.stock(hub_cache, HubModel(source=source, revision=folder.name))
            if stock.whole:
                yield stock
            else:
                _tell(f"left out: {source} at {folder.name[:12]} lacks {listed(stock.missing)}")


def _problem(model: HubModel, stock: cache.Stock) -> Problem:
    return Problem(
        variable="MODEL",
        value=model.source,
        reason=f"lacks {listed(stock.missing)} in {stock.folder or stock.repository}",
        allowed="models that are whole: finish the download with `berth fetch`",
        example=EXAMPLE,
    )


@dataclass(frozen=True, slots=True)
class _File:
    """A member with the content of a file."""

    name: str
    path: Path
    size: int
    sha256: str = ""  # "": its reader knows it by its name


class _Hashing:
    """A file that is being read, and the digest of what was read so far."""

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
    def __init__(self, settings: Settings, stocks: Sequence[cache.Stock]) -> None:
        self._data_dir = Path(settings.data_dir)
        self._models = [_packed(stock) for stock in stocks]
        self._caches = [file for folder in CACHES for file in _cache_files(self._data_dir, folder)]
        models = tuple(model for model, _ in self._models)
        self._manifest = Manifest(
            berth=__version__,
            created=int(time.time()),
            models=models,
            caches={file.name: PackedBlob(size=file.size, sha256=file.sha256) for file in self._caches},
        )
        self._total = sum(model.size for model in models) + self._manifest.cache_bytes
        self._done = 0
        self._gauge = ProgressBar("Exporting", sys.stderr)

    def write(self, out: BinaryIO) -> None:
        with tarfile.open(fileobj=out, mode="w|", bufsize=CHUNK_BYTES, format=tarfile.PAX_FORMAT) as tar:
            self._text(tar, MANIFEST, self._manifest.to_json())
            for model, files in self._models:
                self._model(tar, model, files)
            for file in self._caches:
                self._file(tar, file)
        out.flush()
        self._gauge.finish(self._total)
        for model in self._manifest.models:
            _tell(f"exported {model.source} ({model.commit[:12]}): {len(model.links)} files, {amount(model.size)}B")
        _tell(f"exported {len(self._caches)} files of compile caches, {amount(self._manifest.cache_bytes)}B")
        _tell(f"the archive's digest is {self._manifest.digest}")

    def _model(self, tar: tarfile.TarFile, model: PackedModel, files: Sequence[_File]) -> None:
        """References last: a tar that ends too early leaves no model that looks whole."""
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

    def _file(self, tar: tarfile.TarFile, file: _File) -> None:
        info = _info(file.name)
        info.size = file.size
        try:
            with file.path.open("rb") as content:
                hashing = _Hashing(content)
                tar.addfile(info, cast("IO[bytes]", hashing) if file.sha256 else content)
        except OSError as error:
            if error.errno is not None and error.filename is None:  # standard output: closed, or its disk is full
                raise
            raise ArchiveError(f"{file.path} changed or went away while it was read ({error}): export again") from error
        if file.sha256 and hashing.hexdigest() != file.sha256:
            raise ArchiveError(f"{file.path} changed while it was read: export again when no engine starts")
        self._done += file.size
        self._gauge.show(self._done, self._total)

    @staticmethod
    def _text(tar: tarfile.TarFile, name: str, data: bytes) -> None:
        info = _info(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def _packed(stock: cache.Stock) -> tuple[PackedModel, list[_File]]:
    """What the manifest says of a snapshot, and the files with its blobs."""
    assert stock.folder is not None  # noqa: S101 - it is whole
    home, commit = stock.repository, stock.folder.name
    paths = {str(path.relative_to(stock.folder)): path for path in sorted(stock.folder.rglob("*")) if path.is_file()}
    links = {name: _blob_name(path) for name, path in paths.items()}
    contents = {links[name]: path for name, path in paths.items()}
    record = cache.read_record(home, commit)
    model = PackedModel(
        source=home.name.removeprefix("models--").replace("--", "/"),
        repository=home.name,
        commit=commit,
        revisions=tuple(_revisions(home, commit)),
        blobs={blob: _blob(blob, path) for blob, path in contents.items()},
        links=links,
        record=record.files if record else None,
    )
    folder = PurePosixPath(model.folder, "blobs")
    return model, [_File(f"{folder}/{blob}", path, model.blobs[blob].size) for blob, path in contents.items()]


def _blob_name(path: Path) -> str:
    """A file of a file system without links is its own content."""
    return path.readlink().name if path.is_symlink() else _sha256(path)


def _blob(name: str, path: Path) -> PackedBlob:
    return PackedBlob(size=path.stat().st_size, sha256="" if names_itself(name) else _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _revisions(home: Path, commit: str) -> Iterator[str]:
    refs = home / "refs"
    for path in sorted(refs.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and path.read_text(encoding="utf-8").strip() == commit:
            yield str(path.relative_to(refs))


def _cache_files(data_dir: Path, folder: str) -> Iterator[_File]:
    """Plain files only: no links, locks or sockets."""
    for path in sorted((data_dir / folder).rglob("*")):
        if not path.is_file() or path.is_symlink() or path.suffix in (".lock", ".tmp"):
            continue
        name = str(PurePosixPath(path.relative_to(data_dir)))
        if is_cache_path(name):
            yield _File(name, path, path.stat().st_size, _sha256(path))
        else:
            _tell(f"left out: {name!r} has a name that no import takes")


def _info(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    info.mtime = int(time.time())
    return info


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - standard output is the tar
