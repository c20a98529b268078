"""/proc/<pid>/stat of real processes."""

import os
import signal
import subprocess
import time

import pytest

from berth.proc_stat import Stat, rss_bytes, stat_of


def test_own_process() -> None:
    stat = stat_of(os.getpid())
    assert stat
    assert (stat.alive, stat.stopped, stat.parent, stat.session) == (True, False, os.getppid(), os.getsid(0))
    assert stat.start_ticks > 0


def test_memory_of_a_process() -> None:
    assert 1 << 20 < rss_bytes(os.getpid()) < 1 << 40
    with subprocess.Popen(["true"]) as process:
        pass
    assert rss_bytes(process.pid) == 0


def test_stopped_process_and_zombie() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        process.send_signal(signal.SIGSTOP)
        assert wait_for_state(process.pid, "T").stopped
        process.kill()
        zombie = wait_for_state(process.pid, "Z")
        assert (zombie.alive, zombie.stopped) == (False, False)
    assert stat_of(process.pid) is None


def wait_for_state(pid: int, state: str) -> Stat:
    deadline = time.monotonic() + 10
    while (stat := stat_of(pid)) is None or stat.state != state:
        if time.monotonic() > deadline:
            pytest.fail(f"{stat}, not {state}")
        time.sleep(0.01)
    return stat
