"""Reads a growing log file: each line once, also across rotation; and thins out progress bars.

supervisord rotates between two writes, possibly in the middle of a line: the rest of it is in the next file.
"""

import os
from pathlib import Path
from typing import BinaryIO

from berth.control.logs.load_progress import Bar
from berth.log_lines import Splitter

CHUNK = 256 * 1024  # bytes per read, so that a chatty engine does not block the others
LOOK_BACK = 64 * 1024  # bytes before a position whose lines `seek` returns
BAR_STEP = 10  # percent

Position = tuple[int, int]  # inode and offset


class Tail:
    """Reads what is appended to a file that may be missing, truncated, or rotated (renamed and replaced)."""

    def __init__(self, path: Path, *, oldest: bool = False) -> None:
        """`oldest`: starts with the oldest rotated file instead of the current one."""
        self._path = path
        self._oldest = oldest
        self._file: BinaryIO | None = None
        self._splitter = Splitter()
        self._line_start: Position | None = None

    def seek(self, position: Position | None) -> list[str]:
        """Continues at a position of an earlier reader, also if that file was rotated since, and returns the last lines
        before it. If that file no longer exists, reading continues with the oldest one.
        """
        self._open()
        if not position:
            return []
        if not any(self._open_part(part, position[0]) for part in self.parts()):
            self._oldest = True
            self.close()
            self._open()
        elif self._file:
            end = min(position[1], os.fstat(self._file.fileno()).st_size)
            start = self._file.seek(max(0, end - LOOK_BACK))
            self._line_start = position[0], end
            return Splitter().feed(self._file.read(end - start))
        return []

    def parts(self) -> list[Path]:
        """The files of the log, oldest first. supervisord names the rotated ones `.log.3`."""
        rotated = [part for part in self._path.parent.glob(f"{self._path.name}.*") if part.suffix[1:].isdigit()]
        return [*sorted(rotated, key=lambda part: -int(part.suffix[1:])), self._path]

    @property
    def position(self) -> Position | None:
        """Where the next complete line begins."""
        return self._line_start

    def read(self) -> list[str]:
        """New complete lines, up to a limit. An empty list means that there are no more for now."""
        if not self._file:
            self._open()
        lines: list[str] = []
        while self._file and not lines:
            data = self._read(self._file)
            if data:
                lines = self._split(self._file, data)
            elif (flushed := self._next_file(self._file)) is None:
                break
            else:
                lines = flushed
        return lines

    def drain(self) -> list[str]:
        """All lines, including an unfinished last one."""
        lines: list[str] = []
        while more := self.read():
            lines += more
        return lines + self._flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """The file to start with, if it exists."""
        parts = self.parts() if self._oldest else [self._path]
        any(self._open_part(part) for part in parts)

    def _open_part(self, path: Path, inode: int | None = None) -> bool:
        """False if it does not exist, or is not the file with this inode."""
        try:
            file = path.open("rb", buffering=0)
        except OSError:
            return False
        found = os.fstat(file.fileno()).st_ino
        if inode not in (None, found):
            file.close()
            return False
        self.close()
        self._file, self._line_start = file, (found, 0)
        return True

    def _read(self, file: BinaryIO) -> bytes:
        if os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0)
        return file.read(CHUNK)

    def _split(self, file: BinaryIO, data: bytes) -> list[str]:
        lines = self._splitter.feed(data)
        if (held := self._splitter.held_bytes) <= len(data):  # else the line began in an earlier chunk or file
            self._line_start = os.fstat(file.fileno()).st_ino, file.tell() - held
        return lines

    def _flush(self) -> list[str]:
        lines = self._splitter.flush()
        if self._file:
            self._line_start = os.fstat(self._file.fileno()).st_ino, self._file.tell()
        return lines

    def _next_file(self, file: BinaryIO) -> list[str] | None:
        """At the end of a file, continues with the following one. None: this is the last, or has unread data.

        There are two cases: 1. the file was rotated: its last line continues in the following one 2. it was replaced by
        an unrelated file.
        """
        following, rotated = self._following(os.fstat(file.fileno()))
        if following is None:
            return None
        if data := self._read(file):  # written after the last read and before the rotation
            return self._split(file, data)
        lines, line_start = ([], self._line_start) if rotated else (self._flush(), None)
        held = self._splitter.held_bytes
        if self._open_part(following) and held:
            self._line_start = line_start
        return lines

    def _following(self, current: os.stat_result) -> tuple[Path | None, bool]:
        """The file after the current one, and whether the current one still exists under another name."""
        parts: list[tuple[Path, os.stat_result]] = []
        for part in self.parts():
            try:
                parts.append((part, part.stat()))
            except OSError:  # just renamed
                continue
        inodes = [status.st_ino for _, status in parts]
        if current.st_ino in inodes:
            later = parts[inodes.index(current.st_ino) + 1 :]
            return (later[0][0] if later else None), True
        newer = [part for part, status in parts if status.st_mtime_ns >= current.st_mtime_ns]
        return (newer[0] if newer else None), False


class ProgressBarFilter:
    """Drops the lines of a progress bar within one step of 10 %."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}

    def passes(self, bar: Bar | None) -> bool:
        """Called with the progress bar of each line, if it has one."""
        if bar is None:
            return True
        step = bar.percent // BAR_STEP
        if self._steps.get(bar.what) == step:
            return False
        self._steps[bar.what] = step
        return True
