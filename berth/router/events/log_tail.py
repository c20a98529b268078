"""The end of an engine's log, and what is added to it. Masked as in the container's log."""

import os
from pathlib import Path
from typing import BinaryIO, Final

from berth.log_lines import Splitter, mask_secrets
from berth.plan import Keys

FIRST_LINES: Final = 200
MOST_LINES: Final = 200  # in a period
_FIRST_BYTES: Final = 64 << 10
_MOST_BYTES: Final = 256 << 10  # in a period: what is beyond is skipped unread


class LogTail:
    """Of one replica. The file may be missing, and supervisord rotates it: then the new one is read from its start."""

    def __init__(self, path: Path, keys: Keys) -> None:
        self._path = path
        self._keys = keys
        self._file: BinaryIO | None = None
        self._splitter = Splitter()
        self._begun = False

    def read(self) -> tuple[list[str], int]:
        """The new lines, and how many lines were skipped. The first call returns the last lines of the file, and skips
        none. Bytes that were skipped unread count as one line.
        """
        first, self._begun = not self._begun, True
        skipped = 0
        data = b""
        try:
            if self._file is None:
                self._file = self._path.open("rb")
            size = os.fstat(self._file.fileno()).st_size
            place = self._file.tell()
            start = max(0, place if place <= size else 0, size - (_FIRST_BYTES if first else _MOST_BYTES))
            skipped = int(start > place and not first)
            self._file.seek(start)
            data = self._file.read(_MOST_BYTES)
            if not data and self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
                self.close()
                return self.read()
        except OSError:  # not there yet
            self.close()
        lines = self._splitter.feed(data)
        lines = lines[1:] if first and len(data) == _FIRST_BYTES else lines  # it may be half of one
        most = FIRST_LINES if first else MOST_LINES
        skipped += 0 if first else max(0, len(lines) - most)
        return [mask_secrets(self._keys.masked(line)) for line in lines[-most:]], skipped

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
