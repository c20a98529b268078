"""Reads a growing log: each line once, across rotation, and no more of a progress bar than one line per step.

supervisord rotates between two writes, which may be in the middle of a line: the rest is in the next file.
"""

import os
from pathlib import Path
from typing import BinaryIO

from berth.control.load_progress import bar
from berth.log_lines import Splitter

CHUNK = 256 * 1024  # read at once, so that a chatty engine does not keep the others waiting
BEFORE = 64 * 1024  # bytes that are looked back
BAR_STEP = 10  # percent

Position = tuple[int, int]  # inode and offset


class Tail:
    """Reads what is appended to a file that may be rotated (renamed, a new one in its place), truncated or missing."""

    def __init__(self, path: Path, *, oldest: bool = False) -> None:
        """`oldest`: it begins with the oldest of the rotated files, instead of the one that is written now."""
        self._path = path
        self._oldest = oldest
        self._file: BinaryIO | None = None
        self._splitter = Splitter()
        self._line_start: Position | None = None

    def seek(self, position: Position | None) -> list[str]:
        """Goes on behind what was read before, also if that file was rotated since, and returns the last lines of
        that. If it is gone, the oldest that is there is the nearest.
        """
        self._open()
        if position and not any(self._open_part(part, position[0]) for part in self.parts()):
            self._oldest = True
            self.close()
            self._open()
        elif position and self._file:
            return self._look_back(self._file, position[1])
        return []

    def parts(self) -> list[Path]:
        """The log's files, the oldest first: supervisord calls it `.log.3`."""
        rotated = [part for part in self._path.parent.glob(f"{self._path.name}.*") if part.suffix[1:].isdigit()]
        return [*sorted(rotated, key=lambda part: -int(part.suffix[1:])), self._path]

    @property
    def position(self) -> Position | None:
        """Where the next complete line begins."""
        return self._line_start

    def read(self) -> list[str]:
        """The complete lines that are new, up to a limit: an empty list means that there is no more now."""
        if not self._file:
            self._open()
        lines: list[str] = []
        while self._file and not lines:
            data = self._read(self._file)
            if data:
                lines = self._take(self._file, data)
            elif (flushed := self._go_on(self._file)) is None:
                break
            else:
                lines = flushed
        return lines

    def drain(self) -> list[str]:
        """All that is there, the unfinished last line included."""
        lines: list[str] = []
        while more := self.read():
            lines += more
        return lines + self._flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """The file to begin with, if there is one."""
        parts = self.parts() if self._oldest else [self._path]
        any(self._open_part(part) for part in parts)

    def _open_part(self, path: Path, inode: int | None = None) -> bool:
        """Whether it could be opened, and is the one with this number."""
        try:
            file = path.open("rb", buffering=0)
        except OSError:  # not there yet
            return False
        found = os.fstat(file.fileno()).st_ino
        if inode not in (None, found):
            file.close()
            return False
        self.close()
        self._file, self._line_start = file, (found, 0)
        return True

    def _look_back(self, file: BinaryIO, offset: int) -> list[str]:
        status = os.fstat(file.fileno())
        end = min(offset, status.st_size)
        start = file.seek(max(0, end - BEFORE))
        lines = Splitter().feed(file.read(end - start))
        self._line_start = status.st_ino, end
        return lines

    def _read(self, file: BinaryIO) -> bytes:
        if os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0)
        return file.read(CHUNK)

    def _take(self, file: BinaryIO, data: bytes) -> list[str]:
        lines = self._splitter.feed(data)
        if (held := self._splitter.held_bytes) <= len(data):  # else the line began in an earlier piece, or file
            self._line_start = os.fstat(file.fileno()).st_ino, file.tell() - held
        return lines

    def _flush(self) -> list[str]:
        lines = self._splitter.flush()
        if self._file:
            self._line_start = os.fstat(self._file.fileno()).st_ino, self._file.tell()
        return lines

    def _go_on(self, file: BinaryIO) -> list[str] | None:
        """At the end of a file: to the one that came after it. None: this is the last, or not all of it is read.

        There are two cases: 1. it was rotated, then its last line goes on in the next one; 2. another file lies in
        its place, and has nothing to do with it.
        """
        following, rotated = self._following(os.fstat(file.fileno()))
        if following is None:
            return None
        if data := self._read(file):  # written after the last look at it and before it was renamed
            return self._take(file, data)
        lines, line_start = ([], self._line_start) if rotated else (self._flush(), None)
        held = self._splitter.held_bytes
        if self._open_part(following) and held:
            self._line_start = line_start
        return lines

    def _following(self, ours: os.stat_result) -> tuple[Path | None, bool]:
        """The file after ours, and whether ours is still there, under another name."""
        parts = [(part, status) for part in self.parts() if (status := _stat(part))]
        inodes = [status.st_ino for _, status in parts]
        if ours.st_ino in inodes:
            later = parts[inodes.index(ours.st_ino) + 1 :]
            return (later[0][0] if later else None), True
        newer = [part for part, status in parts if status.st_mtime_ns >= ours.st_mtime_ns]
        return (newer[0] if newer else None), False


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


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # just renamed
        return None
