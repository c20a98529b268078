"""The program `berth control`, as supervisord's child."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from berth.control.main import serve
from berth.control.publish import read_state
from berth.errors import ControlError
from berth.plan import Keys, RunPaths
from berth.processes import leftovers, supervisor_record
from berth.state import ReplicaStatus
from tests.control.harness import FAST, ROOT, Appliance, appliance, control_command, engine, gone, plan_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # many processes start here, on busy machines too
S = ReplicaStatus


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(30):
        while not gone(pid):  # noqa: ASYNC110 - there is no event for the exit of another process's child
            await asyncio.sleep(0.02)


async def until_blocked(box: Appliance) -> None:
    """Control has missed several heartbeats."""
    sequence = -1
    while sequence != box.sequence():
        sequence = box.sequence()
        await asyncio.sleep(5 * FAST.heartbeat_s)


def control_pid(run_dir: Path) -> int:
    state = read_state(RunPaths(run_dir=str(run_dir), data_dir=""))
    return state.control_pid if state else 0


@pytest.mark.parametrize("missing", ["plan.json", "keys.json"])
def test_missing_files_are_an_error_with_the_next_step(tmp_path: Path, missing: str) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())
    (tmp_path / missing).write_bytes(b"{")
    with pytest.raises(ControlError, match=rf"{missing}' cannot be read: .*Start Berth"):
        serve(str(tmp_path))


@pytest.mark.slow
async def test_ends_with_all_engines_when_supervisord_is_killed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "deaf", "orphan"), engine(tmp_path, "chat-b"))
    async with appliance(plan, control=control_command(tmp_path)) as box:
        await box.until(lambda states: all(state.status is S.READY for state in states.values()))
        control = control_pid(tmp_path)
        box.supervisord.kill()
        await until_gone(control)
        assert leftovers(plan.paths, "chat-a") == leftovers(plan.paths, "chat-b") == []
        assert {state.status for state in box.states().values()} == {S.STOPPED}


@pytest.mark.slow
async def test_ends_with_all_engines_when_standard_output_goes_with_supervisord(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "deaf"))
    async with appliance(plan, control=control_command(tmp_path)) as box:
        await box.until_status("chat-a", S.READY)
        control = control_pid(tmp_path)
        box.supervisord.send_signal(signal.SIGSTOP)  # nobody reads control's pipe: it blocks in the next large write
        with plan.paths.replica_log("chat-a").open("a") as log:
            log.write("a line of the engine\n" * 20_000)
        await until_blocked(box)
        box.supervisord.kill()
        await until_gone(control)
        assert leftovers(plan.paths, "chat-a") == []
        assert box.states()["chat-a"].status is S.STOPPED


@pytest.mark.slow
async def test_recovers_after_control_was_killed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    async with appliance(plan, control=control_command(tmp_path)) as box:
        ready = await box.until_status("chat-a", S.READY)
        first = control_pid(tmp_path)
        os.kill(first, signal.SIGKILL)
        after = await box.until(lambda _: control_pid(tmp_path) != first)
        assert after["chat-a"].status is S.READY
        assert after["chat-a"].pid == ready.pid
        assert len(box.starts("chat-a")) == 1


@pytest.mark.slow
async def test_shutdown_leaves_no_processes(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "orphan"))
    async with appliance(plan, control=control_command(tmp_path)) as box:
        await box.until_status("chat-a", S.READY)
        box.supervisord.terminate()
        assert await asyncio.to_thread(box.supervisord.wait, 15) == 0
        assert leftovers(plan.paths, "chat-a") == []
        assert box.states()["chat-a"].status is S.STOPPED
        assert len(box.starts("chat-a")) == 1


@pytest.mark.slow
async def test_full_disk_behind_standard_output_is_harmless(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    async with appliance(plan) as box:
        supervisor_record(plan.paths).unlink()  # control is this test's child
        with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device, open at once
            control = await asyncio.create_subprocess_exec(
                *control_command(tmp_path).split(),
                stdout=full,
                stderr=asyncio.subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        await box.until_status("chat-a", S.READY)
        control.terminate()
        _, errors = await control.communicate()
    assert control.returncode == 0
    assert errors.decode().count("No space left on device") == 1


def test_imports_nothing_that_only_a_terminal_needs() -> None:
    """The command line of httpx would bring rich, click and pygments: 6 MB, and 60 ms of each start."""
    code = "import sys, berth.control.controller; print(sorted({'rich', 'click', 'pygments'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True).stdout == b"[]\n"
