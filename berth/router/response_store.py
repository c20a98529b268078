"""Responses that clients may ask for again, or go on from: one small file each, in a folder that all workers share.

The folder lies in the run directory (memory, in the container) and is nobody else's to read. It is bounded by number
and by bytes, the oldest go first. Looking through it takes a millisecond or two, too long to be done for each response:
half of the room is for what stays, the other half is shared out to the workers, who look when their part is used up. So
the bound holds without a lock, whatever the workers do at the same time.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import orjson

from berth.apis.base import Headers
from berth.apis.responses.store import StoredResponse
from berth.log import log
from berth.processes import replace_file
from berth.router.exchange.auth import key_in

MOST_FILES = 2048
MOST_BYTES = 128 << 20
_SUFFIX = ".response"
_HEAD = 9  # bytes before the JSON: its CRC-32 as hexadecimal digits, and a line feed


class _File(NamedTuple):
    written_ns: int
    path: str
    size: int


class ResponseFiles:
    """A ResponseStore. `writers`: how many processes may write at the same time, at most."""

    def __init__(
        self,
        folder: Path,
        *,
        writers: int,
        open_access: bool,
        most_files: int = MOST_FILES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._folder = folder
        self._open_access = open_access
        self._kept = (most_files // 2, most_bytes // 2)
        self._share = (max(1, most_files // 2 // writers), most_bytes // 2 // writers)
        self._room = (0, 0)  # files and bytes that this process may still write without looking

    def owner(self, headers: Headers) -> str:
        """A digest of the request's key; the same for everybody where no key is needed."""
        return "" if self._open_access else hashlib.sha256(key_in(headers)).hexdigest()

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        try:
            return _decoded(self._path(owner, response_id).read_bytes())
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, owner: str, stored: StoredResponse) -> None:
        """A response that does not fit is not kept: what it is for is told from its absence."""
        data = _encoded(stored)
        if len(data) > self._share[1]:
            log.info("response not kept", bytes=len(data), most=self._share[1])
            return
        try:
            self._make_room(len(data))
            replace_file(self._path(owner, stored.id), data, mode=0o600)
        except OSError as exc:
            log.warning("response not kept", reason=str(exc))

    def delete(self, owner: str, response_id: str) -> bool:
        try:
            self._path(owner, response_id).unlink()
        except OSError:
            return False
        return True

    def _path(self, owner: str, response_id: str) -> Path:
        """Of a digest: the id is the client's text."""
        name = hashlib.sha256(f"{owner}\0{response_id}".encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{name}{_SUFFIX}"

    def _make_room(self, size: int) -> None:
        files, free = self._room
        if files < 1 or free < size:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._sweep()
            files, free = self._share
        self._room = (files - 1, free - size)

    def _sweep(self) -> None:
        """Only the newest stay."""
        count, total = 0, 0
        for file in sorted(self._files(), reverse=True):
            count, total = count + 1, total + file.size
            if count > self._kept[0] or total > self._kept[1]:
                with suppress(OSError):  # another worker was first
                    os.unlink(file.path)  # noqa: PTH108 - thousands of them

    def _files(self) -> Iterator[_File]:
        """Half-written ones of a worker that was killed too."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    stat = entry.stat()
                    yield _File(stat.st_mtime_ns, entry.path, stat.st_size)


def _encoded(stored: StoredResponse) -> bytes:
    document = orjson.dumps({"response": stored.response, "input": stored.input})
    return b"%08x\n" % zlib.crc32(document) + document


def _decoded(data: bytes) -> StoredResponse:
    """ValueError for bytes that are not those that were written."""
    document = data[_HEAD:]
    if data[:_HEAD] != b"%08x\n" % zlib.crc32(document):
        raise ValueError("damaged")
    read = orjson.loads(document)
    return StoredResponse(response=read["response"], input=read["input"])
