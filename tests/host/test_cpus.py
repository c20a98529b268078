"""The CPUs of a container: affinity and quotas, from trees of files as the kernel shows them."""

import os
from pathlib import Path

import pytest

from berth.host.cgroup import available_cpus, workers_for


@pytest.mark.parametrize(("cpus", "workers"), [(0.5, 1), (1, 1), (2, 1), (3.9, 1), (4, 2), (7, 3), (8, 4), (128, 4)])
def test_half_the_cpus_are_the_routers_up_to_four(cpus: float, workers: int) -> None:
    assert workers_for(cpus) == workers


def _tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
        {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"},
        {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n", "sys/fs/cgroup/cpu.max": "500 1000"},
        {
            "proc/self/cgroup": "11:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
            f"{V1}/cpu.cfs_quota_us": "50000\n",
            f"{V1}/cpu.cfs_period_us": "100000\n",
        },
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n",
            "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2", "v2 group above", "v2 mount", "v1 mount", "v1 group"],
)
def test_the_quota_of_a_control_group_counts(tmp_path: Path, files: dict[str, str]) -> None:
    assert available_cpus(root=_tree(tmp_path, files)) == 0.5


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
def test_without_a_quota_the_affinity_counts(tmp_path: Path, files: dict[str, str]) -> None:
    assert available_cpus(root=_tree(tmp_path, files)) == len(os.sched_getaffinity(0))


def test_a_group_outside_the_mount_is_not_looked_at(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../../x\n", "sys/fs/x/cpu.max": "1 100\n"}
    assert available_cpus(root=_tree(tmp_path, files)) >= 1
