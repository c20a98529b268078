"""CPU and memory limits, from trees of files as the kernel shows them."""

import os
from pathlib import Path

import psutil
import pytest

from berth.host.cgroup import available_cpus, available_memory, memory, memory_left, workers_for

V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


LIMITED: dict[str, dict[str, str]] = {
    "v2, the mount is the group": {f"{V2}/memory.max": "5000\n", f"{V2}/memory.current": "2000\n"},
    "v2, a group": {
        "proc/self/cgroup": "0::/docker/x\n",
        f"{V2}/docker/x/memory.max": "4000",
        f"{V2}/docker/x/memory.current": "1000",
    },
    "v2, the group above binds": {
        "proc/self/cgroup": "0::/a/b\n",
        f"{V2}/a/memory.max": "3500",
        f"{V2}/a/memory.current": "500",
        f"{V2}/a/b/memory.max": "max",
        f"{V2}/a/b/memory.current": "500",
    },
    "v2, file pages count as free": {
        f"{V2}/memory.max": "5000",
        f"{V2}/memory.current": "4500",
        f"{V2}/memory.stat": "anon 1000\ninactive_file 2500\nactive_file x\n",
    },
    "v1, the mount is the group": {f"{V1}/memory.limit_in_bytes": "3100", f"{V1}/memory.usage_in_bytes": "100"},
    "v1, a group": {
        "proc/self/cgroup": "11:cpu:/y\n4:memory:/docker/x\nnonsense\n",
        f"{V1}/memory.limit_in_bytes": "9223372036854771712",
        f"{V1}/memory.usage_in_bytes": "100",
        f"{V1}/docker/x/memory.limit_in_bytes": "4000",
        f"{V1}/docker/x/memory.usage_in_bytes": "1500",
        f"{V1}/docker/x/memory.stat": "inactive_file 7\ntotal_inactive_file 500\n",
    },
}


@pytest.mark.parametrize("files", LIMITED.values(), ids=LIMITED)
def test_reads_the_memory_left_below_the_limit(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_left(tree(tmp_path, files)) == 3000


def test_usage_above_the_limit_leaves_nothing(tmp_path: Path) -> None:
    assert memory_left(tree(tmp_path, {f"{V2}/memory.max": "1000", f"{V2}/memory.current": "2000"})) == 0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {f"{V2}/memory.max": "max\n", f"{V2}/memory.current": "1"},
        {f"{V2}/memory.max": "5000"},
        {"proc/self/cgroup": "0::/../../x\n", "sys/x/memory.max": "1", "sys/x/memory.current": "0"},
    ],
    ids=["no files", "max", "usage not known", "outside the mount"],
)
def test_no_limit_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_left(tree(tmp_path, files)) is None


@pytest.mark.parametrize(("cpus", "workers"), [(0.5, 1), (1, 1), (2, 1), (3.9, 1), (4, 2), (7, 3), (8, 4), (128, 4)])
def test_default_worker_count_is_half_the_cpus_up_to_four(cpus: float, workers: int) -> None:
    assert workers_for(cpus) == workers


V1_CPU = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
        {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"},
        {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n", "sys/fs/cgroup/cpu.max": "500 1000"},
        {
            "proc/self/cgroup": "11:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
            f"{V1_CPU}/cpu.cfs_quota_us": "50000\n",
            f"{V1_CPU}/cpu.cfs_period_us": "100000\n",
        },
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n",
            "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2", "v2 group above", "v2 mount", "v1 mount", "v1 group"],
)
def test_applies_the_cgroup_quota(tmp_path: Path, files: dict[str, str]) -> None:
    assert available_cpus(tree(tmp_path, files)) == 0.5


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1000 0\n"},
        {"proc/self/cgroup": "nonsense\n"},
        {"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99999999 100000\n"},
    ],
    ids=["no files", "v2 max", "v2 broken", "broken", "v1 none", "more than there are"],
)
def test_uses_the_affinity_without_a_quota(tmp_path: Path, files: dict[str, str]) -> None:
    assert available_cpus(tree(tmp_path, files)) == len(os.sched_getaffinity(0))


def test_ignores_a_group_outside_the_mount(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../../x\n", "sys/fs/x/cpu.max": "1 100\n"}
    assert available_cpus(tree(tmp_path, files)) >= 1


def test_memory_is_limited_by_the_cgroup(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("5000\n")
    (group / "memory.current").write_text("2000\n")

    assert available_memory(tmp_path) == 3000
    assert memory(tmp_path) == (3000, 5000)
    assert memory(tmp_path / "none")[1] == psutil.virtual_memory().total
    assert available_memory(tmp_path / "none") == pytest.approx(psutil.virtual_memory().available, rel=0.5)
