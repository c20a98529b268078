"""Router workers, stopped or blocked, as real processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from berth.control.watches.routers import StoppedProcesses, foreground, watch_router
from berth.ipc.heartbeats import BLOCKED_ROUNDS, FIRST_WORKER, ROUTER, STOPPED_ROUNDS, Heartbeat, Row
from berth.plan import RunPaths
from berth.proc_stat import stat_of

# argv: the file, the row, and when its loop is blocked (seconds, or never).
WORKER = """
import asyncio, pathlib, sys, time
from berth.ipc.heartbeats import Heartbeat
async def run():
    heartbeat = Heartbeat(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
    asyncio.get_running_loop().call_later(float(sys.argv[3]), time.sleep, 60)
    while True:
        heartbeat.beat()
        print(flush=True)
        await asyncio.sleep(0.01)
asyncio.run(run())
"""
QUICK_S = 0.15


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(run_dir=str(tmp_path), data_dir="")


@contextmanager
def worker(paths: RunPaths, row: int, blocked_after_s: float = 1000.0) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", WORKER, str(paths.heartbeats), str(row), str(blocked_after_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def watch(paths: RunPaths, rounds: int) -> None:
    async def watching() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(watch_router(paths, round_s=QUICK_S), QUICK_S * rounds)

    asyncio.run(watching())


@pytest.mark.parametrize("fault", ["stopped", "blocked"])
def test_kills_a_silent_worker_and_no_other(paths: RunPaths, fault: str) -> None:
    with (
        worker(paths, FIRST_WORKER) as healthy,
        worker(paths, FIRST_WORKER + 1, 0.1 if fault == "blocked" else 1000) as silent,
    ):
        if fault == "stopped":
            silent.send_signal(signal.SIGSTOP)
        watch(paths, BLOCKED_ROUNDS + 10)
        assert healthy.poll() is None
        assert silent.wait(5) == -signal.SIGKILL


def test_does_not_kill_a_worker_that_has_ended_its_heartbeats(paths: RunPaths) -> None:
    heartbeat = Heartbeat(paths.heartbeats, FIRST_WORKER)  # of this process: a kill would end the test
    heartbeat.beat()
    heartbeat.close()
    watch(paths, BLOCKED_ROUNDS + 4)


def test_resumes_the_routers_main_process(paths: RunPaths) -> None:
    with worker(paths, ROUTER) as main:
        main.send_signal(signal.SIGSTOP)
        watch(paths, STOPPED_ROUNDS + 10)
        stat = stat_of(main.pid)
        assert stat
        assert (stat.stopped, main.poll()) == (False, None)


def test_a_process_counts_as_stopped_after_several_rounds() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        stat = stat_of(process.pid)
        assert stat
        row, stopped = Row(process.pid, stat.start_ticks, 0), StoppedProcesses()
        assert [stopped.stopped([row], float(number)) for number in range(10)] == [[]] * 10
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        results = [stopped.stopped([row], 10.0 + number) for number in range(STOPPED_ROUNDS + 1)]
        assert results == [[]] * STOPPED_ROUNDS + [[row._replace(beats=1)]]
        process.kill()


def test_foreground_is_the_parent_of_supervisord() -> None:
    assert [row.pid for row in foreground(os.getpid())] == [os.getppid()]
    assert foreground(1) == foreground(2**22 + 1) == []
