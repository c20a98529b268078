"""When a start counts as doing something."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.hangs.starts import Look, works
from berth.host.process_activity import Activity, activity
from berth.state import ReplicaStatus
from tests.control.harness import FAST, appliance, engine, plan_of

IDLE = Activity(cpu_s=5.0, read_bytes=1000, faults=3)
GIB = 2**30


def after_10s(
    done: Mapping[str, Activity | None], gpus: Mapping[int, int] | None = None, *, before: Activity | None = IDLE
) -> bool:
    first = Look(at=100.0, done={"a": before, "b": IDLE}, gpus={0: GIB})
    return works(first, Look(at=110.0, done=done, gpus={0: GIB} if gpus is None else gpus))


@pytest.mark.parametrize(
    ("after", "busy"),
    [
        (IDLE, False),
        (IDLE._replace(cpu_s=5.15), False),  # threads that wait
        (IDLE._replace(cpu_s=5.25), True),
        (IDLE._replace(read_bytes=1000 + 9 * 2**20), False),
        (IDLE._replace(read_bytes=1000 + 11 * 2**20), True),
        (IDLE._replace(faults=4), True),
        (IDLE._replace(cpu_s=1.0, read_bytes=0, faults=0), True),  # one of its processes has ended
        (None, True),  # it cannot be seen
    ],
)
def test_start_works_if_it_computes_or_reads(after: Activity | None, busy: bool) -> None:
    assert after_10s({"a": after}) is busy


def test_start_works_if_gpu_memory_changes() -> None:
    assert after_10s({"a": IDLE}, {0: GIB + 2**20}) is False
    assert after_10s({"a": IDLE}, {0: 2 * GIB}) is True


def test_start_that_has_just_begun_works() -> None:
    assert after_10s({"a": IDLE}, before=None) is True
    assert after_10s({"new": IDLE}) is True


def test_waiting_for_another_start_is_no_hang() -> None:
    assert after_10s({"a": IDLE, "b": IDLE._replace(cpu_s=9.0)}) is True


def test_sees_what_processes_compute_and_read(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(4 * 2**20))
    code = f"open({str(tmp_path / 'weights')!r}, 'rb').read(); sum(range(12_000_000)); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 15
        while (seen := activity([process.pid])) and (seen.cpu_s < 0.05 or seen.read_bytes < 4 * 2**20):
            assert time.monotonic() < deadline, seen
            time.sleep(0.01)
        process.communicate(b"\n")
    assert seen is not None


def test_processes_that_are_gone_cannot_be_seen() -> None:
    assert activity([]) is None
    assert activity([2**30]) is None
    assert activity([2**30, os.getpid()]) is not None


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(60)
async def test_start_that_does_nothing_is_ended_and_counts_as_a_failure(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "slow=60"))
    timing = replace(FAST, start_look_s=0.2, inert_start_s=0.5)
    async with appliance(plan) as box, box.control(timing):
        down = await box.until_status("chat-a", ReplicaStatus.BACKOFF)
    assert down.reason.startswith(
        "the start hangs: for 0.5 s no CPU time, nothing read, no progress in its log, in phase"
    )
