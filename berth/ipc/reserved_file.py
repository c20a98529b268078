"""Small files that can be replaced even when the disk is full: boot reserves their space.

A file has a spare of the same size next to it. New contents are written into the spare, in place, and the two exchange
their names in one step, so that readers see the old contents or the new ones. The contents are followed by blanks,
which JSON ignores. Where that is impossible (no spare, larger contents, a file system without exchange), the file is
replaced by a new one, which needs space.
"""

import ctypes
import os
from pathlib import Path

from berth.processes import replace_file

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def reserve(path: Path, size: int) -> None:
    """Makes the space for contents of up to `size` bytes. The file itself need not exist. OSError without space."""
    _allocate(_spare(path), size)
    if path.exists():
        write(path, path.read_bytes())
        _allocate(_spare(path), size)  # the file that there was
    else:
        _allocate(_first(path), size)


def write(path: Path, data: bytes) -> None:
    """Replaces the contents. For one writer. OSError when there is neither a spare nor space."""
    is_first = not path.exists()
    spare = _first(path) if is_first else _spare(path)
    try:
        with spare.open("r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            written = len(data) <= size and file.write(data.ljust(size)) == size
        if written:
            if is_first:
                spare.rename(path)
            else:
                _exchange(spare, path)
            return
    except (OSError, AttributeError):  # no spare, no exchange on this file system, or none in this C library
        pass
    replace_file(path, data, mode=0o600)


def read(path: Path) -> bytes:
    """The contents, also while they are being replaced. OSError when there is no such file."""
    while True:  # a file that was exchanged while it was read may have been the spare, and half written
        with path.open("rb", buffering=0) as file:
            opened = os.fstat(file.fileno())
            data = file.read()
        now = path.stat()
        if (opened.st_ino, opened.st_mtime_ns) == (now.st_ino, now.st_mtime_ns):
            return data


def _allocate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _spare(path: Path) -> Path:
    return path.with_name(f".{path.name}.spare")


def _first(path: Path) -> Path:
    """Becomes the file itself."""
    return path.with_name(f".{path.name}.first")


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
