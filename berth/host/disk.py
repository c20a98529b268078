"""Free disk space, and folders that can be written: checked before the first byte."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from berth.errors import UnwritableError
from berth.units import size

RESERVE_BYTES = 256 * 2**20  # stays free: logs and compile caches have to be written too


def free_disk(folder: str) -> int | None:
    """Of the file system that holds `folder`, or that will hold it. None: unknown."""
    try:
        return shutil.disk_usage(existing(folder)).free
    except OSError:
        return None


def room_problem(missing_bytes: int, free_bytes: int | None, folder: str) -> str:
    """The message where that many bytes do not fit; "" where they do, or the free space is unknown. Pure."""
    if not missing_bytes or free_bytes is None or missing_bytes + RESERVE_BYTES <= free_bytes:
        return ""
    return (
        f"the models take {size(missing_bytes)} more, and {folder!r} has {size(free_bytes)} free. "
        f"Free {size(missing_bytes + RESERVE_BYTES - free_bytes)} there, give BERTH_DATA a larger volume, or serve less"
    )


def require_room(missing_bytes: int, folder: Path) -> None:
    """UnwritableError where the disk that holds `folder` is too small."""
    problem = room_problem(missing_bytes, free_disk(str(folder)), str(folder))
    if problem:
        raise UnwritableError(problem)


def existing(path: str) -> Path:
    """The path itself, or the nearest folder above it that exists and can be seen."""
    for folder in (Path(path), *Path(path).parents):
        with contextlib.suppress(OSError):
            if folder.exists():
                return folder
    return Path("/")


@contextlib.contextmanager
def writing(variable: str, path: str) -> Iterator[None]:
    """An OSError inside becomes an UnwritableError about the directory `path` of `variable`."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(". ".join(write_problem(variable, path, error))) from error


def write_problem(variable: str, path: str, error: OSError) -> tuple[str, str]:
    """What is wrong with a directory that cannot be written, and what to do: our user, its owner."""
    uid, folder = os.geteuid(), existing(path)
    detail = f"{variable}={path!r} cannot be written as user {uid}: {error.filename or path!r}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return detail, f"Free space in {str(folder)!r}, or set {variable} to a directory that has some"
    if error.errno == errno.EROFS:
        return detail, f"Mount a volume there (`-v berth:{path}`), or set {variable} to a writable directory"
    other = f", or set {variable} to a directory that this user can write"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return detail, f"Give user {uid} write access to {str(folder)!r}{other}"
    owner = folder.stat()
    detail += f" ({str(folder)!r} belongs to user {owner.st_uid}, mode {owner.st_mode & 0o7777:o})"
    volume = f"docker run --rm --user 0 -v VOLUME:{path} --entrypoint chown IMAGE -R {uid} {path}"
    hand_over = f"Give it to user {uid} (on the host `chown -R {uid} FOLDER`, for a volume `{volume}`)"
    return detail, f"{hand_over}, start the container with --user 0, which does that for its own user{other}"
