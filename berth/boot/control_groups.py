"""The control groups (version 1 or 2) of this process: which there are, and how much memory they leave."""

from collections.abc import Iterator
from pathlib import Path

MOUNT = "sys/fs/cgroup"


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes up to the nearest limit of all groups that bind; None without a limit. `root` holds proc and sys.

    What the kernel gives back when it is needed (file pages that nobody has used lately) counts as left.
    """
    left = [_left_v2(folder) for folder in folders(root, "")]
    left += [_left_v1(folder) for folder in folders(root, "memory")]
    return min((bytes_ for bytes_ in left if bytes_ is not None), default=None)


def folders(root: Path, controller: str, name: str | None = None) -> Iterator[Path]:
    """Those of the process's groups and of all above them; controller "" is version 2. In a container the mount may be
    the group itself. `name`: where several controllers share a mount, it may be called after all of them.
    """
    mount = root / MOUNT / (controller if name is None else name)
    yield mount
    for controllers, group in _groups(root / "proc/self/cgroup"):
        if controller in controllers.split(","):
            folder = mount / group.strip("/")
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(mount) and one != mount)


def _groups(path: Path) -> list[tuple[str, str]]:
    """(controllers, group) for each line `id:controllers:/group`."""
    lines = (line.split(":", 2) for line in _text(path).splitlines())
    return [(parts[1], parts[2]) for parts in lines if len(parts) == 3]


def _left_v2(folder: Path) -> int | None:
    return _left(folder / "memory.max", folder / "memory.current", _stat(folder, "inactive_file"))


def _left_v1(folder: Path) -> int | None:
    usage = folder / "memory.usage_in_bytes"
    return _left(folder / "memory.limit_in_bytes", usage, _stat(folder, "total_inactive_file"))


def _left(limit: Path, usage: Path, reclaimable: int) -> int | None:
    """None for a group without a limit ("max", or no such file)."""
    most, used = _text(limit).strip(), _text(usage).strip()
    if not most.isdecimal() or not used.isdecimal():
        return None
    return max(int(most) - max(int(used) - reclaimable, 0), 0)


def _stat(folder: Path, name: str) -> int:
    for line in _text(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
