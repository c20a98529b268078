"""CPU and memory limits of this process: its affinity and its control groups, version 1 or 2.

`root` is the folder that holds proc and sys.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

MOST_WORKERS = 4
ROOT = Path("/")
MOUNT = "sys/fs/cgroup"
V1_CPU_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")
# The files of the limit and of the usage, and the key in memory.stat of file pages that the kernel can reclaim.
V1_MEMORY = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2_MEMORY = ("memory.max", "memory.current", "inactive_file")


def workers_for(cpus: float) -> int:
    """Default number of router workers: half the CPUs, between 1 and 4."""
    return max(1, min(MOST_WORKERS, int(cpus) // 2))


def available_cpus(root: Path = ROOT) -> float:
    """CPUs by affinity, or the smallest quota of a control group if that is less."""
    quotas = [_quota(_text(folder / "cpu.max")) for folder in folders(root, "")]
    quotas += [
        _quota(f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}")
        for mount in V1_CPU_MOUNTS
        for folder in folders(root, "cpu", mount)
    ]
    return min(float(len(os.sched_getaffinity(0))), *quotas)


def available_memory(root: Path = ROOT) -> int:
    """Bytes that new processes can use: the host's, or what a control group leaves."""
    host, group = int(psutil.virtual_memory().available), memory_left(root)
    return host if group is None else min(host, group)


def memory(root: Path = ROOT) -> tuple[int, int]:
    """The same, and all that there is: of the host, or the limit."""
    host, (left, limit) = psutil.virtual_memory(), memory_left_of(root)
    available, total = int(host.available), int(host.total)
    return (available, total) if left is None or limit is None else (min(available, left), min(total, limit))


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes up to the nearest limit of all groups that apply; None without a limit. Reclaimable file pages are free."""
    return memory_left_of(root)[0]


def memory_left_of(root: Path = ROOT) -> tuple[int | None, int | None]:
    """The same, and the limit that it is up to."""
    found = [_memory_left(folder, *V2_MEMORY) for folder in folders(root, "")]
    found += [_memory_left(folder, *V1_MEMORY) for folder in folders(root, "memory")]
    return min((one for one in found if one is not None), default=(None, None))


def groups(root: Path) -> dict[str, str]:
    """The group of this process for each controller; "" is version 2."""
    lines = (line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines() if line.count(":") >= 2)
    return {controller: group for _, controllers, group in lines for controller in controllers.split(",")}


def folders(root: Path, controller: str, mount: str = "") -> Iterator[Path]:
    """The folder of this process's group and those of the groups above it. In a container the mount may be the group
    itself. `mount`: where several controllers share a mount, it may be called after all of them.
    """
    top = root / MOUNT / (mount or controller)
    group = groups(root).get(controller, "").strip("/")
    if group and ".." not in Path(group).parts:  # a group outside this cgroup namespace cannot be seen
        folder = top / group
        while folder != top:
            yield folder
            folder = folder.parent
    yield top


def number(path: Path, key: str = "") -> int | None:
    """The number after the key, or the only one in the file; None for "max", and where there is none."""
    for line in _text(path).splitlines():
        words = line.split()
        if words and words[:-1] == ([key] if key else []) and words[-1].isdecimal():
            return int(words[-1])
    return None


def _quota(text: str) -> float:
    """CPUs, from "quota period"; infinite without a quota: "max", "-1", or no such file."""
    match = re.fullmatch(r"\s*(\d+)\s+(\d*[1-9]\d*)\s*", text)
    return int(match[1]) / int(match[2]) if match else math.inf


def _memory_left(folder: Path, limit_file: str, usage_file: str, reclaimable_key: str) -> tuple[int, int] | None:
    """What is left, and the limit."""
    limit, usage = number(folder / limit_file), number(folder / usage_file)
    if limit is None or usage is None:
        return None
    reclaimable = number(folder / "memory.stat", reclaimable_key) or 0
    return max(limit - max(usage - reclaimable, 0), 0), limit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
