"""`berth import`: takes in what `berth export` wrote. Every path and byte is checked; a model becomes visible when all
of it is there.
"""

import os
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from berth.boot.checkpoints import cache
from berth.boot.checkpoints.archive import (
    CACHES,
    CHUNK_BYTES,
    EXIT_USAGE,
    MANIFEST,
    WITHOUT_CACHES,
    Manifest,
    PackedBlob,
    PackedModel,
    digest_of,
    parts_of,
    settings_of,
)
from berth.boot.checkpoints.progress_bar import ProgressBar, amount
from berth.errors import ArchiveError, UnwritableError
from berth.host.disk import require_room

LARGEST_MANIFEST = 64 * 2**20
LARGEST_NOTE = 2**20  # a record, or a reference
EXAMPLE = "docker run --rm -i -v berth:/data berth import < berth.tar"


def import_(environ: Mapping[str, str], source: BinaryIO) -> int:
    """Reads the tar, compressed or not, from `source` into the data directory. Standard error says what is done.
    ArchiveError for a damaged one, UnwritableError where there is no room or no write access; then no model of it is
    visible, and what is there already is not read again the next time.
    """
    if source.isatty():
        _tell(f"berth import: it reads a tar from standard input, and that is a terminal. Example: {EXAMPLE}")
        return EXIT_USAGE
    data_dir = Path(settings_of(environ).data_dir)
    with _translated(data_dir), tarfile.open(fileobj=source, mode="r|*", bufsize=CHUNK_BYTES) as tar:
        _Import(data_dir, _manifest(tar)).take(tar)
    return 0


@contextmanager
def _translated(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"the archive is damaged or ends too early: {error}. Export or copy it again") from error
    except OSError as error:
        raise UnwritableError(
            f"BERTH_DATA={str(data_dir)!r}: {error.filename or data_dir}: {error.strerror or error}. "
            "Make room there and give Berth's user write access"
        ) from error


def _manifest(tar: tarfile.TarFile) -> Manifest:
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.isreg() else None
    if first is None or content is None or first.name != MANIFEST or first.size > LARGEST_MANIFEST:
        raise ArchiveError(f"this is no archive of `berth export`: it does not begin with {MANIFEST}")
    return Manifest.from_json(content.read())


class _Import:
    def __init__(self, data_dir: Path, manifest: Manifest) -> None:
        self._data_dir = data_dir
        self._manifest = manifest
        self._blobs = {
            f"{model.folder}/blobs/{name}": blob for model in manifest.models for name, blob in model.blobs.items()
        }
        self._expected = self._blobs | manifest.caches
        self._notes = frozenset(name for model in manifest.models for name in _notes(model))
        self._total = sum(blob.size for blob in self._expected.values())
        self._seen: set[str] = set()
        self._done = 0
        self._taken = 0
        self._gauge = ProgressBar("Importing", sys.stderr)

    def take(self, tar: tarfile.TarFile) -> None:
        missing = sum(blob.size for path, blob in self._expected.items() if not self._is_there(path, blob))
        require_room(missing, self._data_dir)
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # it would remember every one; the stubs do not know
            self._member(tar, member)
            self._gauge.show(self._done, self._total)
        absent = [path for path, blob in self._expected.items() if not self._has(path, blob)]
        if absent:
            raise ArchiveError(f"the archive ends too early: {len(absent)} files are missing, the first is {absent[0]}")
        for model in self._manifest.models:
            self._publish(model)
        self._gauge.finish(self._total)
        self._report()

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """There are four cases:
        1. A blob or a file of a compile cache: checked against the manifest, and blobs against their own name.
        2. A link, record or reference of a model: made anew, from the manifest, when all blobs are there.
        3. A file of a compile cache in an archive of a format that cannot be checked: passed over.
        4. Anything else is refused, and so is a second one of the same name.
        """
        plain = member.isreg() and not member.issparse()
        if member.name in self._seen:
            raise ArchiveError(f"{member.name!r} is in it twice")
        self._seen.add(member.name)
        if member.name in self._expected and plain:
            self._file(tar, member, self._expected[member.name])
        elif not (self._is_note(member, plain=plain) or self._is_unchecked(member, plain=plain)):
            raise ArchiveError(f"{member.name!r} does not belong into it, or is no plain file")

    def _is_note(self, member: tarfile.TarInfo, *, plain: bool) -> bool:
        return member.name in self._notes and (member.issym() or (plain and member.size <= LARGEST_NOTE))

    def _is_unchecked(self, member: tarfile.TarInfo, *, plain: bool) -> bool:
        parts = parts_of(member.name)
        return self._manifest.format == WITHOUT_CACHES and parts[0] in CACHES and len(parts) > 1 and plain

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, blob: PackedBlob) -> None:
        """What is there already is kept: a blob of the same size, a file of a cache in any case."""
        if member.size != blob.size:
            raise ArchiveError(f"{member.name} has {member.size} bytes, {blob.size} were announced")
        self._done += blob.size
        if self._is_there(member.name, blob) or (member.name in self._manifest.caches and self._exists(member.name)):
            return
        digest, wanted = digest_of(member.name.rpartition("/")[2], blob)
        with self._new_file(member.name) as file:
            for data in _content(tar, member):
                digest.update(data)
                file.write(data)
            if digest.hexdigest() != wanted:
                raise ArchiveError(f"{member.name} is damaged: its content is not what its checksum says")

    def _publish(self, model: PackedModel) -> None:
        home = self._path(str(model.folder))
        folder = home / "snapshots" / model.commit
        for name, blob in model.links.items():
            _link(folder / name, home / "blobs" / blob)
        if model.record is not None:
            cache.write_record(home, model.commit, model.record)
        for revision in model.revisions:
            cache.write_commit(home, revision, model.commit)

    def _report(self) -> None:
        for model in self._manifest.models:
            size = amount(model.size)
            _tell(f"imported {model.source} ({model.commit[:12]}): {len(model.links)} files, {size}B, all checked")
        manifest = self._manifest
        if manifest.format == WITHOUT_CACHES:
            _tell(
                f"no compile caches: Berth {manifest.berth[:40]!r} wrote no digests of them, and engines run what is "
                "in them. They compile again, or `berth export` of this version takes them along"
            )
        else:
            _tell(
                f"imported {len(manifest.caches)} files of compile caches, {amount(manifest.cache_bytes)}B, all checked"
            )
            _tell(f"the archive's digest is {manifest.digest}")
        _tell(f"{amount(self._taken)}B written to {self._data_dir}, the rest was there")

    def _path(self, name: str) -> Path:
        return self._data_dir.joinpath(*parts_of(name))

    def _has(self, name: str, blob: PackedBlob) -> bool:
        return name in self._seen or self._is_there(name, blob)

    def _exists(self, name: str) -> bool:
        return os.path.lexists(self._path(name))

    def _is_there(self, name: str, blob: PackedBlob) -> bool:
        path = self._path(name)
        return path.is_file() and path.stat().st_size == blob.size

    @contextmanager
    def _new_file(self, name: str) -> Iterator[IO[bytes]]:
        """Gets its name when all of it is on the disk."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.import")
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                self._taken += file.tell()
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _notes(model: PackedModel) -> Iterator[str]:
    """The members that say again what the manifest says: links, record, references."""
    yield from (f"{model.folder}/snapshots/{model.commit}/{name}" for name in model.links)
    yield f"{model.folder}/berth/{model.commit}.json"
    yield from (f"{model.folder}/refs/{revision}" for revision in model.revisions)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    content = tar.extractfile(member)
    assert content is not None  # noqa: S101 - it is a plain file
    while data := content.read(CHUNK_BYTES):
        yield data


def _link(path: Path, blob: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(blob, path.parent))
    temporary.replace(path)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - like `berth export`, which has no other place
