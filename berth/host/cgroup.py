"""How many CPUs this process may use: its affinity, and the limits of its control group.

The control groups (version 1 or 2) of this process: which there are, and how much memory they leave.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil


def available_memory(root: Path = Path("/")) -> int:
    """Memory that new processes can have: the machine's, or what a control group leaves. `root` holds proc and sys."""
    machine, group = int(psutil.virtual_memory().available), memory_left(root)
    return machine if group is None else min(machine, group)


MOST_WORKERS = 4
V1_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def workers_for(cpus: float) -> int:
    """Half the CPUs belong to the engines, and more than a few routers help nobody."""
    return max(1, min(MOST_WORKERS, int(cpus) // 2))


def available_cpus(*, root: str = "/") -> float:
    """CPUs by affinity, or less where a control group (version 1 or 2) sets a quota. `root` holds proc and sys."""
    cpus = float(len(os.sched_getaffinity(0)))
    return min([cpus, *_quotas(Path(root))])


def _quotas(root: Path) -> list[float]:
    """Every quota that binds: those of the process's own groups and of the groups above them."""
    quotas = [_quota_v2(folder / "cpu.max") for folder in folders(root, "")]
    quotas += [_quota_v1(folder) for name in V1_MOUNTS for folder in folders(root, "cpu", name)]
    return [quota for quota in quotas if quota is not None]


def _quota_v2(path: Path) -> float | None:
    quota, _, period = _text(path).strip().partition(" ")
    return _ratio(quota, period)


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """None for no quota: "max", "-1", or a file that is not there."""
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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
