"""Stored responses, which clients retrieve or continue: one small file each, in a folder that all workers share.

The folder is in the run directory (memory, in the container) and readable for its owner only. It is bounded by number
and by bytes. A scan takes a millisecond or two, too long for each response: half of the limit is for files that stay,
the other half is divided among the workers, and a worker scans when its share is used up. So the limit holds without a
lock, whatever the workers do at the same time.

A scan removes the oldest files of those owners (API keys) that have more than a fair share of the half that stays: what
owners with less leave of theirs is shared by the others. So no one's responses are removed for those of others as long
as all are within their shares.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from berth import json_text
from berth.apis.base import Headers
from berth.apis.responses.store import StoredResponse
from berth.log import log
from berth.plan import Plan
from berth.processes import replace_file
from berth.router.exchange.auth import key_in

MOST_FILES = 2048
MOST_BYTES = 128 << 20
_SUFFIX = ".response"
_OWNER_DIGITS = 16  # with which the name of a file begins
_HALF_WRITTEN_S = 60.0  # then its worker was killed
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
        self._failing = False  # the last one was not stored; logged once
        self._free = (0, 0)  # files and bytes that this process may still write without a scan

    @classmethod
    def of(cls, plan: Plan) -> "ResponseFiles":
        """Those of an appliance."""
        return cls(
            Path(plan.paths.run_dir, "responses"), writers=plan.listen.most_workers, open_access=plan.open_access
        )

    def owner(self, headers: Headers) -> str:
        """A digest of the request's key, or of its session; the same for all clients if no key is needed."""
        return "" if self._open_access else hashlib.sha256(key_in(headers) or headers.get(b"cookie", b"")).hexdigest()

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        try:
            data = self._path(owner, response_id).read_bytes()
            document = data[_HEAD:]
            if data[:_HEAD] != b"%08x\n" % zlib.crc32(document):  # damaged
                return None
            read = json_text.read_back(document)
            return StoredResponse(response=read["response"], input=read["input"], size_bytes=len(document))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, owner: str, stored: StoredResponse) -> None:
        """A response that is too large is not stored; a later request for it fails as for an unknown one."""
        document = json_text.dumps({"response": stored.response, "input": stored.input})
        data = b"%08x\n" % zlib.crc32(document) + document
        if len(data) > self._share[1]:
            log.info("response not stored, too large", bytes=len(data), most=self._share[1])
            return
        try:
            files, free = self._free
            if files < 1 or free < len(data):
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._remove_oldest()
                files, free = self._share
            self._free = (files - 1, free - len(data))
            replace_file(self._path(owner, stored.id), data, mode=0o600)
        except OSError as exc:
            if not self._failing:
                log.warning("responses not stored", error=str(exc))
            self._failing = True
        else:
            self._failing = False

    def delete(self, owner: str, response_id: str) -> bool:
        try:
            self._path(owner, response_id).unlink()
        except OSError:
            return False
        return True

    def _path(self, owner: str, response_id: str) -> Path:
        """Of a digest: the id is the client's text."""
        name = hashlib.sha256(f"{owner}\0{response_id}".encode("utf-8", "surrogatepass")).hexdigest()
        group = hashlib.sha256(owner.encode()).hexdigest()[:_OWNER_DIGITS]
        return self._folder / f"{group}-{name}{_SUFFIX}"

    def _remove_oldest(self) -> None:
        """Half-written files of a worker that was killed too."""
        owners: dict[str, list[_File]] = {}
        unwanted: list[_File] = []
        oldest_ns = time.time_ns() - int(_HALF_WRITTEN_S * 1e9)
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    stat = entry.stat()
                    file = _File(stat.st_mtime_ns, entry.path, stat.st_size)
                    if not entry.name.startswith("."):
                        owners.setdefault(entry.name[:_OWNER_DIGITS], []).append(file)
                    elif file.written_ns < oldest_ns:
                        unwanted.append(file)
        most_files = fair_share([len(files) for files in owners.values()], self._kept[0])
        most_bytes = fair_share([sum(file.size for file in files) for files in owners.values()], self._kept[1])
        for files in owners.values():
            total = 0
            for place, file in enumerate(sorted(files, reverse=True)):
                total += file.size
                if place >= most_files or total > most_bytes:
                    unwanted.append(file)
        for file in unwanted:
            with suppress(OSError):  # another worker was first
                os.unlink(file.path)  # noqa: PTH108 - thousands of them


def fair_share(wanted: Sequence[int], most: int) -> int:
    """What each may have so that together they have at most `most`: the others get what those who want less leave."""
    left = most
    for place, want in enumerate(sorted(wanted)):
        share = left // (len(wanted) - place)
        if want > share:
            return share
        left -= want
    return most
