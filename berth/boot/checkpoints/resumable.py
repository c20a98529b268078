"""Resumable download of one hub blob, verified by SHA-256 before it is renamed into place. (huggingface_hub 2.4
downloads into a temporary file per process, so it does not resume across processes.)
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # lazy exports

from berth.boot.checkpoints.cache import partial
from berth.boot.checkpoints.hub import OutOfReachError

CHUNK_BYTES = 1 << 20


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    url: str
    path: Path
    lock: Path  # huggingface_hub's own, so that no two programs download the same file
    size: int
    sha256: str
    token: str = ""


def download_blob(blob: Blob, *, stopped: Callable[[], bool], report: Callable[[str], None]) -> None:
    """Returns when the blob is complete, or when `stopped`. Errors of the hub library, OutOfReachError and OSError are
    raised; the bytes received until then are kept.
    """
    blob.lock.parent.mkdir(parents=True, exist_ok=True)
    blob.path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(blob.lock):
        if blob.path.exists():
            return
        incomplete = partial(blob.path)
        with incomplete.open("ab+") as file:
            complete = _fill(file, blob, stopped, report)
            os.fsync(file.fileno())  # a file under its final name is complete, even after a power failure
        if complete:
            incomplete.replace(blob.path)


def _fill(file: BinaryIO, blob: Blob, stopped: Callable[[], bool], report: Callable[[str], None]) -> bool:
    """False: stopped before the end."""
    digest, have = _hash_existing(file, blob)
    while have < blob.size:
        before = have
        try:
            for data in _receive(file, blob, have):
                if data is None:
                    digest, have = _hash_existing(file, blob)
                    continue
                file.write(data)
                digest.update(data)
                have += len(data)
                if stopped():
                    return False
        except HTTPError as error:
            if have == before:
                raise
            report(f"{blob.path.name[:12]}: connection lost ({error}), resuming at {have} of {blob.size} bytes")
            continue
        if have == before:
            raise OutOfReachError("a response without content")
    if have != blob.size or digest.hexdigest() != blob.sha256:
        file.truncate(0)
        raise OutOfReachError("the content does not match the hub's checksum")
    return True


def _hash_existing(file: BinaryIO, blob: Blob) -> tuple[Digest, int]:
    """The digest and number of the bytes in the file."""
    digest = hashlib.sha256()
    if file.seek(0, os.SEEK_END) > blob.size:
        file.truncate(0)
    file.seek(0)
    while data := file.read(CHUNK_BYTES):
        digest.update(data)
    return digest, file.tell()


def _receive(file: BinaryIO, blob: Blob, have: int) -> Iterator[bytes | None]:
    """The bytes from `have` on. None first if the server does not support ranges: then the file has been emptied."""
    headers = {**build_hf_headers(token=blob.token or None), "accept-encoding": "identity"}
    if have:
        headers["range"] = f"bytes={have}-"
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", blob.url, headers=headers, timeout=timeout_s, follow_redirects=True) as response:
        hf_raise_for_status(response)
        if have and response.status_code != 206:
            file.truncate(0)
            yield None
        yield from response.iter_bytes()  # unbuffered: a buffered chunk would be lost with the connection
