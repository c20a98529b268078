"""Reads a growing log: complete lines, across rotation, and no more of a progress bar than one line per step."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from berth.control.progress import bar, clean

CHUNK = 256 * 1024  # read at once, so that a chatty engine does not keep the others waiting
LONGEST_LINE = 32 * 1024  # bytes; a longer one is cut into pieces
BEFORE = 64 * 1024  # bytes that are looked back
BAR_STEP = 10  # percent

Position = tuple[int, int]  # inode and offset


class Splitter:
    """Cuts bytes into lines, at line feeds and at the carriage returns of progress bars; empty ones fall out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *whole, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            whole.append(self._rest)
            self._rest = b""
        return [text for part in whole if (text := _text(part))]

    def flush(self) -> list[str]:
        """What came without an end of line: a dying process's last words, the last state of a progress bar."""
        text, self._rest = _text(self._rest), b""
        return [text] if text else []

    @property
    def held_bytes(self) -> int:
        return len(self._rest)


class Tail:
    """Reads what is appended to a file that may be rotated (renamed, a new one in its place), truncated or missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._splitter = Splitter()

    def seek(self, position: Position | None) -> list[str]:
        """Goes on behind what was read before, and returns the last lines of that; goes on from the beginning of the
        file where that is another one now.
        """
        self._open()
        if not self._file or not position:
            return []
        status = os.fstat(self._file.fileno())
        if status.st_ino != position[0]:
            return []
        end = min(position[1], status.st_size)
        start = self._file.seek(max(0, end - BEFORE))
        return Splitter().feed(self._file.read(end - start))

    @property
    def position(self) -> Position | None:
        """Where the next complete line begins."""
        if not self._file:
            return None
        return os.fstat(self._file.fileno()).st_ino, self._file.tell() - self._splitter.held_bytes

    def read(self) -> list[str]:
        """The complete lines that are new, up to a limit: an empty list means that there is no more now."""
        if not self._file:
            self._open()
        if not self._file:
            return []
        data = self._read(self._file)
        if not data and self._replaced(self._file):
            self._file.close()
            self._open()
            return self._splitter.flush() + self.read()
        return self._splitter.feed(data)

    def drain(self) -> list[str]:
        """All that is there, the unfinished last line included."""
        lines: list[str] = []
        while more := self.read():
            lines += more
        return lines + self._splitter.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        try:
            self._file = self._path.open("rb", buffering=0)
        except OSError:  # not there yet
            self._file = None

    def _read(self, file: BinaryIO) -> bytes:
        if os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0)
        return file.read(CHUNK)

    def _replaced(self, file: BinaryIO) -> bool:
        try:
            return self._path.stat().st_ino != os.fstat(file.fileno()).st_ino
        except OSError:  # between two names; the new file comes soon
            return False


class Thinner:
    """Lets a progress bar through once a step, and everything else always."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def wanted(self, line: str) -> bool:
        found = bar(line)
        if found is None:
            return True
        step = found.percent // BAR_STEP
        if self._shown.get(found.what) == step:
            return False
        self._shown[found.what] = step
        return True


def whole_log(path: Path) -> Iterator[str]:
    """All lines of a log, oldest first, those in rotated files too: supervisord calls the oldest `.log.3`."""
    rotated = (part for part in path.parent.glob(f"{path.name}.*") if part.suffix[1:].isdigit())
    for part in (*sorted(rotated, key=lambda part: -int(part.suffix[1:])), path):
        tail = Tail(part)
        while lines := tail.read():
            yield from lines
        yield from tail.drain()
        tail.close()


def _text(data: bytes) -> str:
    return clean(data.decode("utf-8", "replace"))
