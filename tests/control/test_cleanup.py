"""Cleanup of leftover processes."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from berth.control import cleanup
from berth.control.cleanup import clean_up, terminate
from berth.control.decisions.records import Timing
from berth.host.gpu_usage import Gpus
from berth.plan import RunPaths
from berth.processes import REPLICA_MARKER, leftovers
from tests.fakes.plans import make_replica

pytestmark = pytest.mark.anyio


async def test_terminates_only_processes_of_the_named_replicas(tmp_path: Path) -> None:
    paths = RunPaths(run_dir=str(tmp_path), data_dir="")
    sleepers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", "input()", stdin=-1, env=os.environ | {REPLICA_MARKER: f"{tmp_path}:{name}"}
        )
        for name in ("a", "b", "c")
    ]
    ended = asyncio.gather(sleepers[0].wait(), sleepers[1].wait())
    await terminate(paths, ["a", "b"], grace_s=0)
    await ended
    assert leftovers(paths, "c") == [sleepers[2].pid]
    sleepers[2].kill()
    await sleepers[2].wait()


async def test_logs_surviving_processes_and_unreleased_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "sweep", lambda _find, _grace_s: [7, 8])  # no process of ours survives SIGKILL
    paths = RunPaths(run_dir=str(tmp_path), data_dir="")
    gpus = Gpus([])
    monkeypatch.setattr(gpus, "used", lambda _indexes: {0: 2**40})
    timing = Timing(release_timeout_s=0.05, release_poll_s=0.01)
    await clean_up(paths, make_replica("a", launch=None), gpus, {0: 0}, timing)
    logged = [(record.message, record.__dict__["fields"]) for record in caplog.records]
    assert logged == [
        ("processes survived SIGKILL", {"replicas": "a", "pids": "7 8"}),
        (
            "GPU memory not released within timeout",
            {"replica": "a", "next": "nothing that needs it is started before it is free"},
        ),
    ]
