"""Limits of control groups, from trees of files as the kernel shows them."""

from pathlib import Path

import pytest

from berth.host.cgroup import memory_left

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
def test_what_the_limit_leaves(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_left(tree(tmp_path, files)) == 3000


def test_more_than_the_limit_leaves_nothing(tmp_path: Path) -> None:
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
def test_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_left(tree(tmp_path, files)) is None
