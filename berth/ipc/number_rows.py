"""Mapped files with one row of numbers for each router worker. Each worker writes its own row only, so there are no
locks and no lost updates; others sum the rows.
"""

import mmap
import os
from pathlib import Path

_LINE_BYTES = 64  # whole cache lines: workers do not disturb each other


def row_bytes(width: int) -> int:
    return -(-width * 8 // _LINE_BYTES) * _LINE_BYTES


def reserve(path: Path, count: int, width: int) -> None:
    """Replaces the file by an empty one, with its space. OSError when there is none."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, count * row_bytes(width))
    finally:
        os.close(descriptor)


def rows(path: Path, count: int, width: int) -> "list[memoryview[float]]":
    """All rows, mapped. OSError when the file cannot be used."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    step, size = row_bytes(width), count * row_bytes(width)
    try:
        if os.fstat(descriptor).st_size < size:
            os.posix_fallocate(descriptor, 0, size)
        mapped = memoryview(mmap.mmap(descriptor, size))
    finally:
        os.close(descriptor)
    return [mapped[start : start + width * 8].cast("d") for start in range(0, size, step)]
