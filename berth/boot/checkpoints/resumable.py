"""Brings one large file of the hub to the disk. What is there of it already is kept, whoever was interrupted; its
SHA-256 is checked before it gets its name.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # what its HTTP library raises
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
    lock: Path  # huggingface_hub's own, so that no program downloads the same file at the same time
    size: int
    sha256: str
    token: str = ""


def bring(blob: Blob, *, stopped: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Returns when the blob is there, also if another process has brought it. The hub library's errors, OutOfReachError
    and OSError come through; what was received until then stays.
    """
    blob.lock.parent.mkdir(parents=True, exist_ok=True)
    blob.path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(blob.lock):
        if blob.path.exists():
            return
        beginning = partial(blob.path)
        with beginning.open("ab+") as file:
            whole = _fill(file, blob, stopped, say)
            os.fsync(file.fileno())  # a file under its final name is whole, also after a power cut
        if whole:
            beginning.replace(blob.path)


def _fill(file: BinaryIO, blob: Blob, stopped: Callable[[], bool], say: Callable[[str], None]) -> bool:
    """False: stopped before the end."""
    digest, have = _begun(file, blob)
    while have < blob.size:
        before = have
        try:
            for data in _received(file, blob, have):
                if data is None:
                    digest, have = _begun(file, blob)
                    continue
                file.write(data)
                digest.update(data)
                have += len(data)
                if stopped():
                    return False
        except HTTPError as error:
            if have == before:
                raise
            say(f"{blob.path.name[:12]}: connection lost ({error}), going on from {have} of {blob.size} bytes")
            continue
        if have == before:
            raise OutOfReachError("an answer without content")
    return _checked(file, blob, digest, have)


def _checked(file: BinaryIO, blob: Blob, digest: Digest, have: int) -> bool:
    if have == blob.size and digest.hexdigest() == blob.sha256:
        return True
    file.truncate(0)
    raise OutOfReachError("what came is not what the hub's checksum says")


def _begun(file: BinaryIO, blob: Blob) -> tuple[Digest, int]:
    """The digest and the number of the bytes that are there."""
    digest = hashlib.sha256()
    if file.seek(0, os.SEEK_END) > blob.size:
        file.truncate(0)
    file.seek(0)
    while data := file.read(CHUNK_BYTES):
        digest.update(data)
    return digest, file.tell()


def _received(file: BinaryIO, blob: Blob, have: int) -> Iterator[bytes | None]:
    """The bytes from `have` on. None first where the server cannot begin there: then the file has been emptied."""
    headers = {**build_hf_headers(token=blob.token or None), "accept-encoding": "identity"}
    if have:
        headers["range"] = f"bytes={have}-"
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", blob.url, headers=headers, timeout=timeout_s, follow_redirects=True) as answer:
        hf_raise_for_status(answer)
        if have and answer.status_code != 206:
            file.truncate(0)
            yield None
        yield from answer.iter_bytes()  # as it comes: what a larger piece holds back would be lost with the connection
