"""Is there room on the disk for what is to be downloaded or unpacked. Said before the first byte."""

import shutil
from pathlib import Path

from berth.errors import UnwritableError
from berth.units import size


def free_disk(folder: str) -> int | None:
    """Of the file system that holds `folder`, or that would hold it. None: it cannot be told."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


RESERVE_BYTES = 256 * 2**20  # stays free: logs and compile caches have to be written too


def room_problem(missing_bytes: int, free_bytes: int | None, folder: str) -> str:
    """What to tell where that many bytes do not fit; "" where they do, or nobody knows. Pure."""
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
