"""The kernel's counters, read from trees of files as cgroup v1 and v2 have them."""

from dataclasses import replace
from pathlib import Path

import pytest

from berth.host.oom import Counters, Kills, cause

GIB = 2**30
LIMITED = Kills(container=0, at_limit=5, host=7, limit_bytes=16 * GIB)
UNLIMITED = Kills(container=0, at_limit=0, host=7)
LIMIT_REACHED = "the container's memory limit of 16.0 GiB was reached (docker run --memory)"
HOST_FULL = "the host ran out of memory"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (LIMITED, replace(LIMITED, container=1, at_limit=6, host=8), LIMIT_REACHED),
        (LIMITED, replace(LIMITED, container=1, host=8), HOST_FULL),
        (LIMITED, replace(LIMITED, container=1, host=8, peak_bytes=16 * GIB - 4096), LIMIT_REACHED),
        (LIMITED, replace(LIMITED, container=1, host=8, peak_bytes=12 * GIB), HOST_FULL),
        (UNLIMITED, replace(UNLIMITED, container=1, host=8), HOST_FULL),
        (
            LIMITED,
            replace(LIMITED, at_limit=9, host=9),
            "",
        ),  # the kill was in another container
        (Kills(host=7), Kills(host=8), HOST_FULL),
        (Kills(host=7), Kills(host=7), ""),
        (Kills(), Kills(), ""),
        (LIMITED, LIMITED, ""),
    ],
)
def test_finds_the_cause_from_the_counters(before: Kills, after: Kills, expected: str) -> None:
    assert cause(before, after) == expected


def tree(root: Path, files: dict[str, str]) -> Counters:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Counters(root)


EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
V2 = {"proc/self/cgroup": "0::/\n", "proc/vmstat": "pgfault 1\noom_kill 4\n"}
V1 = {"proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/abc\n0::/\n", "proc/vmstat": "oom_kill 4\n"}
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        (
            V2 | {"sys/fs/cgroup/memory.events": EVENTS, "sys/fs/cgroup/memory.max": f"{16 * GIB}\n"},
            Kills(container=2, at_limit=3, host=4, limit_bytes=16 * GIB),
        ),
        (
            V2 | {"sys/fs/cgroup/memory.events": EVENTS, "sys/fs/cgroup/memory.max": "max\n"},
            Kills(container=2, at_limit=3, host=4),
        ),
        (
            V2
            | {
                "proc/self/cgroup": "0::/box/inner\n",
                "sys/fs/cgroup/box/inner/memory.events": EVENTS,
                "sys/fs/cgroup/box/inner/memory.max": "max\n",
                "sys/fs/cgroup/box/memory.events": EVENTS.replace("oom 3", "oom 9"),
                "sys/fs/cgroup/box/memory.max": f"{GIB}\n",
            },
            Kills(container=2, at_limit=9, host=4, limit_bytes=GIB),
        ),
        (
            V1
            | {
                "sys/fs/cgroup/memory/memory.oom_control": CONTROL,
                "sys/fs/cgroup/memory/memory.failcnt": "6\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/memory.max_usage_in_bytes": "77\n",
            },
            Kills(container=2, at_limit=6, host=4, limit_bytes=GIB, peak_bytes=77),
        ),
        (
            V1
            | {
                "sys/fs/cgroup/memory/docker/abc/memory.oom_control": CONTROL,
                "sys/fs/cgroup/memory/docker/abc/memory.failcnt": "6\n",
                "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712\n",
            },
            Kills(container=2, at_limit=6, host=4),
        ),
        (
            V1 | {"sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"},  # Linux before 4.13
            Kills(host=4),
        ),
        (V2, Kills(host=4)),
        ({}, Kills()),
    ],
    ids=[
        "v2",
        "v2 unlimited",
        "v2 limit above",
        "v1 in a container",
        "v1 on the host",
        "old v1",
        "no files",
        "no proc",
    ],
)
def test_reads_both_cgroup_versions(tmp_path: Path, files: dict[str, str], kills: Kills) -> None:
    assert tree(tmp_path, files).read() == kills


def test_reads_this_host() -> None:
    assert isinstance(Counters().read(), Kills)
