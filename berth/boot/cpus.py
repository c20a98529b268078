"""How many CPUs this process may use: its affinity, and the limits of its control group."""

import os
from pathlib import Path

from berth.boot.control_groups import folders

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
