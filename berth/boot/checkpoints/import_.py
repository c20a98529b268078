"""`berth import`: imports the archive of `berth export`. Every path and byte is checked; a model is published
once it is complete.
"""

import os
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from berth.boot.checkpoints import cache
from berth.boot.checkpoints.archive import (
    CACHES,
    CHUNK_BYTES,
    EXIT_USAGE,
    MANIFEST,
    WITHOUT_CACHES,
    Manifest,
    PackedBlob,
    digest_of,
    parts_of,
    settings_of,
)
from berth.boot.checkpoints.progress_bar import ProgressBar, amount
from berth.errors import ArchiveError, UnwritableError
from berth.host.disk import require_room

LARGEST_MANIFEST = 64 * 2**20
LARGEST_METADATA = 2**20  # a record, or a reference
EXAMPLE = "docker run --rm -i -v berth:/data berth import < berth.tar"


def import_(environ: Mapping[str, str], source: BinaryIO) -> int:
    """Reads the tar, compressed or not, from `source` into the data directory. Progress goes to standard error.
    ArchiveError for a damaged archive, UnwritableError without disk space or write access; then none of its models is
    published, and the files that are complete are skipped the next time.
    """
    if source.isatty():
        _print(f"berth import: standard input is a terminal, but a tar is read from it. Example: {EXAMPLE}")
        return EXIT_USAGE
    data_dir = Path(settings_of(environ).data_dir)
    try:
        with tarfile.open(fileobj=source, mode="r|*", bufsize=CHUNK_BYTES) as tar:
            first = tar.next()
            content = tar.extractfile(first) if first is not None and first.isreg() else None
            if first is None or content is None or first.name != MANIFEST or first.size > LARGEST_MANIFEST:
                raise ArchiveError(f"not an archive of `berth export`: it does not begin with {MANIFEST}")
            _Import(data_dir, Manifest.from_json(content.read())).run(tar)
    except (tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"the archive is damaged or truncated: {error}. Export or copy it again") from error
    except OSError as error:
        raise UnwritableError(
            f"BERTH_DATA={str(data_dir)!r}: {error.filename or data_dir}: {error.strerror or error}. "
            "Free space there and give Berth's user write access"
        ) from error
    return 0


class _Import:
    def __init__(self, data_dir: Path, manifest: Manifest) -> None:
        self._data_dir = data_dir
        self._manifest = manifest
        self._blobs = {
            f"{model.folder}/blobs/{name}": blob for model in manifest.models for name, blob in model.blobs.items()
        }
        self._expected = self._blobs | manifest.caches
        self._metadata: set[str] = set()  # members that repeat the manifest: links, record, references
        for model in manifest.models:
            self._metadata |= {f"{model.folder}/snapshots/{model.commit}/{name}" for name in model.links}
            self._metadata.add(f"{model.folder}/berth/{model.commit}.json")
            self._metadata |= {f"{model.folder}/refs/{revision}" for revision in model.revisions}
        self._total = sum(blob.size for blob in self._expected.values())
        self._seen: set[str] = set()
        self._done = 0
        self._written = 0
        self._bar = ProgressBar("Importing", sys.stderr)

    def run(self, tar: tarfile.TarFile) -> None:
        missing = sum(blob.size for path, blob in self._expected.items() if not self._is_present(path, blob))
        require_room(missing, self._data_dir)
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # saves memory; the stubs lack the attribute
            self._member(tar, member)
            self._bar.show(self._done, self._total)
        absent = [
            path for path, blob in self._expected.items() if path not in self._seen and not self._is_present(path, blob)
        ]
        if absent:
            raise ArchiveError(f"the archive is truncated: {len(absent)} files are missing, the first is {absent[0]}")
        for model in self._manifest.models:
            home = self._path(str(model.folder))
            for name, blob in model.links.items():
                path = home / "snapshots" / model.commit / name
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}")
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(os.path.relpath(home / "blobs" / blob, path.parent))
                temporary.replace(path)
            if model.record is not None:
                cache.write_record(home, model.commit, model.record)
            for revision in model.revisions:
                cache.write_commit(home, revision, model.commit)
        self._bar.finish(self._total)
        self._report()

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """There are four cases:
        1. A blob or a file of a compile cache: checked against the manifest, and blobs against their own name.
        2. A link, record or reference of a model: ignored; it is recreated from the manifest when all blobs are there.
        3. A file of a compile cache in an archive of format 1, which cannot be checked: ignored.
        4. Anything else is rejected, and so is a second member with the same name.
        """
        plain = member.isreg() and not member.issparse()
        if member.name in self._seen:
            raise ArchiveError(f"duplicate member {member.name!r} in the archive")
        self._seen.add(member.name)
        if member.name in self._expected and plain:
            self._file(tar, member, self._expected[member.name])
            return
        is_metadata = member.issym() or (plain and member.size <= LARGEST_METADATA)
        parts = parts_of(member.name)
        is_unchecked = self._manifest.format == WITHOUT_CACHES and parts[0] in CACHES and len(parts) > 1 and plain
        if not (member.name in self._metadata and is_metadata) and not is_unchecked:
            raise ArchiveError(f"unexpected member {member.name!r} in the archive, or not a regular file")

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, blob: PackedBlob) -> None:
        """Existing files are kept: a blob of the same size, a file of a cache in any case."""
        if member.size != blob.size:
            raise ArchiveError(f"{member.name} has {member.size} bytes, expected {blob.size}")
        self._done += blob.size
        path = self._path(member.name)
        if self._is_present(member.name, blob) or (member.name in self._manifest.caches and os.path.lexists(path)):
            return
        digest, expected = digest_of(member.name.rpartition("/")[2], blob)
        content = tar.extractfile(member)
        assert content is not None  # noqa: S101 - it is a regular file
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.import")
        try:
            with temporary.open("wb") as file:
                while data := content.read(CHUNK_BYTES):
                    digest.update(data)
                    file.write(data)
                if digest.hexdigest() != expected:
                    raise ArchiveError(f"{member.name} is damaged: its content does not match its checksum")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._written += blob.size

    def _report(self) -> None:
        manifest = self._manifest
        for model in manifest.models:
            files = f"{len(model.links)} files, {amount(model.size)}, all checked"
            _print(f"imported {model.source} ({model.commit[:12]}): {files}")
        if manifest.format == WITHOUT_CACHES:
            _print(
                f"no compile caches imported: Berth {manifest.berth[:40]!r} wrote no digests of them, and engines run "
                "their code. Engines compile again; `berth export` of this version includes digests"
            )
        else:
            files = f"{len(manifest.caches)} files of compile caches, {amount(manifest.cache_bytes)}, all checked"
            _print(f"imported {files}")
            _print(f"the archive's digest is {manifest.digest}")
        _print(f"{amount(self._written)} written to {self._data_dir}, the rest was present")

    def _path(self, name: str) -> Path:
        return self._data_dir.joinpath(*parts_of(name))

    def _is_present(self, name: str, blob: PackedBlob) -> bool:
        path = self._path(name)
        return path.is_file() and path.stat().st_size == blob.size


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - as in `berth export`
