"""How many CPUs this process may use: its affinity, and the limits of its control group."""

import os
from pathlib import Path

MOST_WORKERS = 4


def workers_for(cpus: float) -> int:
    """Half the CPUs belong to the engines, and more than a few routers help nobody."""
    return max(1, min(MOST_WORKERS, int(cpus) // 2))


def available_cpus(*, root: str = "/") -> float:
    """CPUs by affinity, or less where a control group (version 1 or 2) sets a quota. `root` holds proc and sys."""
    cpus = float(len(os.sched_getaffinity(0)))
    return min([cpus, *_quotas(Path(root))])


def _quotas(root: Path) -> list[float]:
    """Every quota that binds: those of the process's own groups and of the groups above them."""
    quotas = []
    mount = root / "sys/fs/cgroup"
    for controllers, group in _groups(root / "proc/self/cgroup"):
        names = controllers.split(",")
        if controllers == "":
            quotas += [_quota_v2(folder / "cpu.max") for folder in _upwards(mount, group)]
        elif "cpu" in names:
            quotas += [_quota_v1(folder) for name in (controllers, "cpu") for folder in _upwards(mount / name, group)]
    return [quota for quota in quotas if quota is not None]


def _groups(path: Path) -> list[tuple[str, str]]:
    """(controllers, group) for each line `id:controllers:/group`."""
    lines = (line.split(":", 2) for line in _text(path).splitlines())
    return [(parts[1], parts[2]) for parts in lines if len(parts) == 3]


def _upwards(mount: Path, group: str) -> list[Path]:
    """The group's folder and all above it. In a container the mount itself may be the group."""
    folder = mount / group.strip("/")
    return [
        mount,
        *(parent for parent in (folder, *folder.parents) if parent.is_relative_to(mount) and parent != mount),
    ]


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
