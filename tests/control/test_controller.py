"""Control against a real supervisord and fake engines."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from berth.control.decisions.residency import BY_IDLE
from berth.control.publish import read_state
from berth.control.runtime import Runtime
from berth.control.supervisord_client import Snapshot
from berth.errors import ControlError
from berth.host.gpu_usage import Gpus
from berth.ipc.control_socket import ask
from berth.ipc.operations import Action, Change, OperationState, Request
from berth.plan import DialectName, Launch, Load, Probe, Replica, Sleep, Standby
from berth.state import ReplicaStatus
from tests.control.harness import FAST, appliance, engine, gone, plan_of
from tests.fakes.attached import LlamacppServer, MlxServer
from tests.fakes.plans import make_replica
from tests.fakes.ports import free_port
from tests.fakes.silent_nvml import SilentNvml
from tests.fakes.upstream import FakeUpstream


@dataclass
class GrowingNvml(SilentNvml):
    """A GPU whose memory usage keeps growing."""

    NVMLError: type[Exception] = RuntimeError
    used: int = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        """Always succeeds."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - NVML's name
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: ARG002, N802 - NVML's name and arguments
        self.used += 2**30
        return SimpleNamespace(used=self.used, total=2**40)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: ARG002, N802 - NVML's name and arguments
        return SimpleNamespace(gpu=0)


pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # many processes start here, on busy machines too
S = ReplicaStatus


async def test_engine_becomes_ready_when_its_probe_succeeds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "slow=0.3"))
    with caplog.at_level("INFO", "berth"):
        async with appliance(plan) as box, box.control():
            starting = await box.until_status("chat-a", S.STARTING)
            ready = await box.until_status("chat-a", S.READY)
    assert starting.progress
    assert (ready.restarts, ready.reason, ready.progress) == (0, "", None)
    assert "curl http://127.0.0.1:8000/v1/chat/completions" in caplog.text
    assert "chat-a | INFO:     Application startup complete.\n" in "".join(box.shown)


@pytest.mark.slow
async def test_engine_is_ready_only_when_it_answers_with_sane_numbers(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    async with appliance(plan) as box:
        box.flag("chat-a", "bad").touch()
        async with box.control():
            down = await box.until_status("chat-a", S.BACKOFF)
            box.flag("chat-a", "bad").unlink()
            ready = await box.until_status("chat-a", S.READY)
    assert down.reason.startswith(
        "it has loaded, but its first answer failed: the log probability of its most probable"
    )
    assert ready.restarts >= 1


@pytest.mark.slow
async def test_engines_start_one_by_one_per_gpu(tmp_path: Path) -> None:
    first, second = (engine(tmp_path, f"chat-{name}", "slow=0.5", gpus=(0,)) for name in "ab")
    elsewhere = engine(tmp_path, "chat-c", "slow=0.5", gpus=(1,))
    plan = plan_of(tmp_path, first, second, elsewhere)
    async with appliance(plan) as box, box.control():
        waiting = await box.until_status("chat-b", S.WAITING)
        await box.until(lambda states: all(state.status is S.READY for state in states.values()))
        (a,), (b,), (c,) = (box.starts(f"chat-{name}") for name in "abc")
    assert waiting.reason.startswith("waits for chat-a")
    assert b - a > 0.5
    assert c < b


@pytest.mark.slow
async def test_next_engine_starts_after_a_failed_one(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "exit=2"), engine(tmp_path, "chat-b"))
    async with appliance(plan) as box, box.control():
        await box.until_status("chat-b", S.READY)
        assert box.states()["chat-a"].status is S.FAILED


@pytest.mark.slow
async def test_restarts_a_killed_engine_and_cleans_up(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "orphan"))
    async with appliance(plan) as box, box.control():
        ready = await box.until_status("chat-a", S.READY)
        orphan = int(box.flag("chat-a", "orphan").read_text())
        os.kill(ready.pid or 0, signal.SIGKILL)
        down = await box.until_status("chat-a", S.BACKOFF)
        again = await box.until_status("chat-a", S.READY)
    assert down.reason.startswith("killed by SIGKILL from outside")
    assert down.next_start_at
    assert again.restarts == 1
    assert again.pid != ready.pid
    assert gone(orphan)  # what the first one left behind was swept


@pytest.mark.slow
async def test_gives_up_a_crash_looping_engine(tmp_path: Path) -> None:
    oom = "say=torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", oom, "exit=1"), engine(tmp_path, "chat-b"))
    async with appliance(plan) as box, box.control():
        failed = await box.until_status("chat-a", S.FAILED)
        other = await box.until_status("chat-b", S.READY)
        assert len(box.starts("chat-a")) == 3
    assert failed.reason.startswith("gave up after 3 failures, the last: torch.OutOfMemoryError: CUDA out of memory")
    assert failed.reason.endswith("(exit code 1)")
    assert failed.last_lines == ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",)
    assert other.restarts == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "starts"),
    [
        (("say=vllm serve: error: unrecognized arguments: --nope", "exit=2"), 1),
        (("say=ValueError: 'x' is not a valid model identifier", "exit=1"), 2),
    ],
    ids=["a wrong option", "a wrong model"],
)
async def test_gives_up_early_on_hopeless_failures(tmp_path: Path, faults: tuple[str, ...], starts: int) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", *faults))
    async with appliance(plan) as box, box.control():
        failed = await box.until_status("chat-a", S.FAILED)
        assert len(box.starts("chat-a")) == starts
    assert faults[0].removeprefix("say=") in failed.reason


@pytest.mark.slow
async def test_missing_program_is_the_reason_of_the_failure(tmp_path: Path) -> None:
    lost = replace(engine(tmp_path, "chat-a"), launch=Launch(argv=("/nowhere/python",)))
    async with appliance(plan_of(tmp_path, lost)) as box, box.control():
        failed = await box.until_status("chat-a", S.FAILED)
    assert "/nowhere/python" in failed.reason or "No such file" in failed.reason


@pytest.mark.slow
async def test_start_timeout_stops_an_engine_that_ignores_sigterm(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "deaf", "slow=60", start_timeout_s=0.5))
    async with appliance(plan) as box, box.control():
        stopping = await box.until_status("chat-a", S.STOPPING)
        down = await box.until_status("chat-a", S.BACKOFF)
        assert gone(stopping.pid or 0)
    assert down.reason.startswith("not ready after 0.5 s without progress, in phase 'process'")


@pytest.mark.slow
async def test_progress_extends_the_start_timeout(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", "steps=60", start_timeout_s=4))
    async with appliance(plan) as box, box.control():
        states = await box.until(lambda s: bool((p := s["chat-a"].progress) and p.percent and p.percent >= 5))
        ready = await box.until_status("chat-a", S.READY)
    assert (progress := states["chat-a"].progress)
    assert progress.phase == "load"
    assert ready.restarts == 0
    assert "".join(box.shown).count("Loading safetensors") <= 7  # one line for every ten, not for each


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["sick", "hang"])
async def test_restarts_an_unhealthy_engine(tmp_path: Path, fault: str) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", probe_timeout_s=0.3))
    async with appliance(plan) as box, box.control():
        await box.until_status("chat-a", S.READY)
        box.flag("chat-a", fault).touch()
        down = await box.until_status("chat-a", S.BACKOFF)
        box.flag("chat-a", fault).unlink()
        again = await box.until_status("chat-a", S.READY)
    assert " liveness probes in a row failed: /health " in down.reason
    assert again.restarts == 1


async def test_activates_a_cold_standby_after_a_permanent_failure(tmp_path: Path) -> None:
    replicas = (engine(tmp_path, "chat-a", "say=KeyError: 'rope'", "exit=2"), engine(tmp_path, "chat-b"))
    async with appliance(plan_of(tmp_path, *replicas, standby=Standby.COLD)) as box, box.control():
        first = await box.until(lambda states: states["chat-a"].status is S.STARTING)
        ready = await box.until_status("chat-b", S.READY)
    assert first["chat-b"].status is S.STANDBY
    assert ready.reason == "took over from chat-a, which failed: gave up at once: KeyError: 'rope' (exit code 2)"


def sleeper(run_dir: Path, name: str, *faults: str) -> Replica:
    """Its server sends the same response to every request."""
    return replace(engine(run_dir, name, *faults), sleep=Sleep(sleep_path="/sleep", wake_path="/wake_up"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["sick", "hang"])
async def test_wakes_a_warm_standby_when_the_first_is_unhealthy(tmp_path: Path, fault: str) -> None:
    replicas = (engine(tmp_path, "chat-a", probe_timeout_s=0.3), sleeper(tmp_path, "chat-b"))
    async with appliance(plan_of(tmp_path, *replicas, standby=Standby.WARM)) as box, box.control():
        before = await box.until(lambda s: (s["chat-a"].status, s["chat-b"].status) == (S.READY, S.ASLEEP))
        box.flag("chat-a", fault).touch()
        woken = await box.until_status("chat-b", S.READY)
        first = box.states()["chat-a"]
        assert box.starts("chat-b") < box.starts("chat-a")
        assert len(box.starts("chat-b")) == 1
    assert (first.status, first.pid) == (S.STANDBY, None)
    assert " liveness probes in a row failed: /health " in first.reason
    assert (woken.pid, woken.restarts) == (before["chat-b"].pid, 0)
    assert woken.reason.startswith("took over from chat-a, which failed: ")


@pytest.mark.slow
@pytest.mark.parametrize("state_path", ["", "/is_sleeping"])
async def test_recovery_keeps_a_sleeping_replica_asleep(tmp_path: Path, state_path: str) -> None:
    one = sleeper(tmp_path, "chat-b")
    first = engine(tmp_path, "chat-a")
    async with appliance(plan_of(tmp_path, first, one, standby=Standby.WARM)) as box:
        await box.crash_control(lambda s: (s["chat-a"].status, s["chat-b"].status) == (S.READY, S.ASLEEP))
        before = box.states()["chat-b"]
        asked = replace(one, sleep=Sleep(sleep_path="/sleep", wake_path="/wake_up", state_path=state_path))
        box.plan = replace(box.plan, replicas=(first, asked))
        async with box.control():
            after = (await box.until(lambda _: box.sequence() < 3))["chat-b"]
    assert (after.status, after.pid) == (S.ASLEEP, before.pid)
    assert after.since == pytest.approx(before.since, abs=1)


@pytest.mark.slow
async def test_warm_standby_unknown_to_supervisord_becomes_cold(tmp_path: Path) -> None:
    replicas = (engine(tmp_path, "chat-a"), sleeper(tmp_path, "chat-b"))
    plan = plan_of(tmp_path, *replicas, standby=Standby.WARM)
    known = replace(plan, replicas=plan.replicas[:1], models=(replace(plan.models[0], replicas=("chat-a",)),))
    async with appliance(known) as box:
        box.plan = plan
        async with box.control():
            states = await box.until(lambda s: s["chat-a"].status is S.READY and s["chat-b"].status is S.STANDBY)
    assert "supervisord did not start 'chat-b'" in states["chat-b"].reason


@pytest.mark.slow
async def test_attached_server_is_ready_while_it_serves(tmp_path: Path) -> None:
    """The reason is always the latest one, and nothing is started or stopped."""
    mlx, llama = MlxServer(), LlamacppServer(loading=True)
    replica = replace(make_replica("chat-remote", launch=None, port=free_port()), dialect=DialectName.OPENAI)
    probe = Probe(path="/health", otherwise=("/v1/models",), timeout_s=2)
    replica = replace(replica, ready=probe, alive=probe)
    async with appliance(plan_of(tmp_path, replica)) as box, box.control():
        lost = await box.until_status(replica.name, S.UNHEALTHY)
        with FakeUpstream(port=int(replica.url.rpartition(":")[2])) as upstream:
            upstream.answers_with(llama)
            loading = await box.until_status(replica.name, S.STARTING)
            llama.loading = False
            await box.until_status(replica.name, S.READY)
            mlx.stopped = True
            upstream.answers_with(mlx)
            dead = await box.until_status(replica.name, S.UNHEALTHY)
            upstream.answers_with(LlamacppServer(key="other"))
            refused = await box.until(lambda states: states[replica.name].reason.startswith("wrong key"))
            upstream.answers_with(llama)
            served = await box.until_status(replica.name, S.READY)
    assert lost.reason.startswith("no connection: cannot connect to")
    assert loading.reason == "loading: Loading model"
    assert dead.reason == "failing: /health returned 503"
    assert refused[replica.name].status is S.UNHEALTHY
    assert (served.reason, served.restarts, served.progress) == ("", 0, None)


@pytest.mark.slow
async def test_attached_server_that_comes_later_says_what_it_is(tmp_path: Path) -> None:
    one = replace(make_replica("chat-a", launch=None, port=free_port()), dialect=DialectName.OPENAI)
    probe = Probe(path="/health", otherwise=("/v1/models",), timeout_s=2)
    one = replace(one, ready=probe, alive=probe, detects=True, unreached=True, served_name="")
    async with appliance(plan_of(tmp_path, one)) as box, box.control():
        await box.until_status("chat-a", S.UNHEALTHY)
        with FakeUpstream(port=int(one.url.rpartition(":")[2])) as upstream:
            upstream.answers_with(LlamacppServer())
            ready = await box.until_status("chat-a", S.READY)
    assert ready.discovered is not None
    assert ready.discovered.dialect is DialectName.LLAMACPP


@pytest.mark.slow
async def test_what_an_attached_server_continues_is_kept_over_a_restart_of_control(tmp_path: Path) -> None:
    with FakeUpstream() as upstream:
        upstream.answers_with(LlamacppServer())
        one = replace(make_replica("chat-a", launch=None, port=upstream.port), dialect=DialectName.OPENAI, weights="w")
        async with appliance(plan_of(tmp_path, one, replace(one, name="chat-b"))) as box:
            await box.crash_control(lambda states: {one.status for one in states.values()} == {S.READY})
            asked = len(upstream.requests)
            async with box.control():
                states = await box.until(lambda _: box.sequence() < 3)
    assert states["chat-a"].continues == ("chat", "completion")
    assert all(request.method == "GET" for request in upstream.requests[asked:])


@pytest.mark.slow
async def test_recovers_running_and_failed_replicas(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"), engine(tmp_path, "chat-b", "exit=2"))
    async with appliance(plan) as box:
        await box.crash_control(lambda s: (s["chat-a"].status, s["chat-b"].status) == (S.READY, S.FAILED))
        before = box.states()
        async with box.control():
            after = await box.until(lambda _: box.sequence() < 3)
            assert after["chat-a"].status is S.READY
            assert after["chat-a"].pid == before["chat-a"].pid
            assert after["chat-b"].reason == before["chat-b"].reason
        assert len(box.starts("chat-a")) == 1
        assert len(box.starts("chat-b")) == 1


@pytest.mark.slow
async def test_recovers_without_a_readable_state(tmp_path: Path) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box:
        await box.crash_control(lambda states: states["chat-a"].status is S.READY)
        box.plan.paths.state.write_bytes(b'{"version":1,')
        box.plan.paths.control_state.write_bytes(b"")
        async with box.control():
            await box.until_status("chat-a", S.READY)
        assert len(box.starts("chat-a")) == 1


@pytest.mark.slow
async def test_restarts_an_engine_that_died_while_control_was_down(tmp_path: Path) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box:
        await box.crash_control(lambda states: states["chat-a"].status is S.READY)
        os.kill(box.states()["chat-a"].pid or 0, signal.SIGKILL)
        async with box.control():
            again = await box.until(lambda states: states["chat-a"].restarts == 1)
        assert again["chat-a"].status in (S.STARTING, S.READY)


@pytest.mark.slow
async def test_engines_keep_running_when_control_stops(tmp_path: Path) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box:
        async with box.control():
            ready = await box.until_status("chat-a", S.READY)
        assert box.states()["chat-a"].status is S.READY
        assert not gone(ready.pid or 0)


@pytest.mark.slow
async def test_terminates_all_engines_when_supervisord_is_gone(tmp_path: Path) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a", "deaf", "orphan"))) as box:
        orphaned: list[bool] = []
        async with box.control(orphaned=lambda: bool(orphaned)):
            ready = await box.until_status("chat-a", S.READY)
            orphaned.append(True)
        assert gone(ready.pid or 0)
        assert gone(int(box.flag("chat-a", "orphan").read_text()))
        assert box.states()["chat-a"].status is S.STOPPED


@pytest.mark.slow
@pytest.mark.parametrize("is_orphaned", [True, False])
async def test_terminates_all_engines_after_an_error_only_when_supervisord_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_orphaned: bool
) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a", "deaf"))) as box:
        orphaned: list[bool] = []

        def fail() -> None:
            orphaned.append(is_orphaned)
            raise ArithmeticError("none that control expects")

        with pytest.RaisesGroup(pytest.RaisesExc(ArithmeticError), flatten_subgroups=True):
            async with box.control(orphaned=lambda: any(orphaned)) as controller:
                ready = await box.until_status("chat-a", S.READY)
                monkeypatch.setattr(controller.supervisord, "snapshot", fail)
                await asyncio.Event().wait()
        assert gone(ready.pid or 0) is is_orphaned
        assert box.states()["chat-a"].status is (S.STOPPED if is_orphaned else S.READY)


@pytest.mark.slow
async def test_supervisord_killed_while_control_stops_ends_the_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a", "deaf"))) as box:
        orphaned: list[bool] = []

        async def killed_meanwhile() -> Snapshot:
            orphaned.append(True)
            raise ControlError("supervisord does not respond")

        async with box.control(orphaned=lambda: bool(orphaned)) as controller:
            ready = await box.until_status("chat-a", S.READY)
            monkeypatch.setattr(controller.supervisord, "snapshot", killed_meanwhile)
        assert gone(ready.pid or 0)


@pytest.mark.slow
async def test_starts_nothing_while_supervisord_shuts_down(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"), engine(tmp_path, "chat-b", "slow=60"))
    async with appliance(plan) as box, box.control():
        await box.until(lambda _: bool(box.starts("chat-a") and box.starts("chat-b")))
        box.supervisord.terminate()
        assert await asyncio.to_thread(box.supervisord.wait) == 0
    assert [len(box.starts(name)) for name in ("chat-a", "chat-b")] == [1, 1]


@pytest.mark.slow
async def test_stop_does_not_wait_for_gpu_memory(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a", gpus=(0,)))
    gpus = Gpus([0], nvml=GrowingNvml())
    async with asyncio.timeout(40), appliance(plan) as box:
        async with box.control(timing=replace(FAST, release_timeout_s=0.3), gpus=gpus):
            await box.until_status("chat-a", S.READY)
        os.kill(box.states()["chat-a"].pid or 0, signal.SIGKILL)
        async with box.control(timing=replace(FAST, release_timeout_s=60), gpus=gpus):
            await box.until_status("chat-a", S.BACKOFF)


@pytest.mark.slow
async def test_keeps_manual_stops_and_starts(tmp_path: Path) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box, box.control() as controller:
        await box.until_status("chat-a", S.READY)
        await controller.supervisord.stop("chat-a")
        stopped = await box.until_status("chat-a", S.STOPPED)
        await controller.supervisord.start("chat-a")
        await box.until_status("chat-a", S.READY)
    assert "by hand" in stopped.reason


@pytest.mark.slow
async def test_logs_an_unreachable_supervisord_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box, box.control():
        await box.until_status("chat-a", S.READY)
        box.supervisord.kill()
        first = box.sequence()
        await box.until(lambda _: box.sequence() > first + 4)  # the State is published all the same
    assert caplog.text.count("supervisord unreachable, engine control suspended") == 1


async def test_waits_for_supervisord_until_stopped(tmp_path: Path) -> None:
    async with appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box:
        box.plan.paths.supervisord_socket.unlink()
        async with box.control(timing=FAST):
            pass
        assert box.states() == {}


@pytest.mark.slow
async def test_replica_unknown_to_supervisord_fails(tmp_path: Path) -> None:
    known, unknown = engine(tmp_path, "chat-a"), engine(tmp_path, "chat-b")
    async with appliance(plan_of(tmp_path, known)) as box:
        box.plan = plan_of(tmp_path, unknown)
        async with box.control():
            failed = await box.until_status("chat-b", S.FAILED)
    assert "supervisord did not start 'chat-b': BAD_NAME" in failed.reason


async def test_logs_the_example_request_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"), engine(tmp_path, "chat-b"))
    with caplog.at_level("INFO", "berth"):
        async with appliance(plan) as box, box.control():
            await box.until_status("chat-b", S.READY)
    assert [record.message for record in caplog.records].count("replica ready") == 2
    assert caplog.text.count("try it: curl") == 1


async def test_a_change_is_published_before_it_is_answered(tmp_path: Path) -> None:
    """Routers know the State alone: a request that follows the reply must not be refused for an earlier one."""
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    async with appliance(plan) as box, box.control(replace(FAST, busy_poll_s=1.0, calm_poll_s=1.0, heartbeat_s=30)):
        await box.until_status("chat-a", S.READY)
        for action, pinned in ((Action.PIN, ("chat",)), (Action.UNPIN, ()), (Action.PIN, ("chat",))):
            reply = await ask(plan.paths.control_socket, Request(change=Change(action=action, model="chat")))
            state = read_state(plan.paths)
            assert (reply.denial, state and state.pins) == (None, pinned)


async def test_what_control_decides_itself_is_begun_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not after the pause between two rounds, which would be a second of each swap."""
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    plan = replace(plan, models=(replace(plan.models[0], load=Load.ON_REQUEST, idle_unload_s=0.2),))
    goes_on: list[bool] = []  # at the pauses with an operation that control decided
    pause = Runtime.pause

    async def watched(runtime: Runtime, seconds: float) -> None:
        if any(one.by == BY_IDLE for one in runtime.operations.running):
            goes_on.append(runtime.changed.is_set())
        await pause(runtime, seconds)

    monkeypatch.setattr(Runtime, "pause", watched)
    async with appliance(plan) as box, box.control():
        await ask(plan.paths.control_socket, Request(change=Change(action=Action.LOAD, model="chat")))
        await box.until_status("chat-a", S.READY)
        await box.until_status("chat-a", S.UNLOADED)
    assert goes_on[0]


async def test_what_has_come_to_its_end_is_not_taken_for_what_is_requested_next(tmp_path: Path) -> None:
    """A reload is over when the workers before it have left, here at once: there are none. Whoever asks again, before
    control has looked, has changed something else meanwhile, and needs a reload of their own.
    """
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    async with appliance(plan) as box, box.control() as controller:
        await box.until_status("chat-a", S.READY)
        first, second = (controller._changed(Change(action=Action.RELOAD), None).operation for _ in range(2))
        assert first is not None
        assert second is not None
        found = await ask(plan.paths.control_socket, Request(operation=first.id))
    assert first.id != second.id
    assert found.operation is not None
    assert found.operation.state is OperationState.DONE


LEAVING_WORKER = """
import sys
from pathlib import Path
from berth.ipc.heartbeats import FIRST_WORKER, Heartbeat
heartbeat = Heartbeat(Path(sys.argv[1]), FIRST_WORKER)
print("serves", flush=True)
sys.stdin.readline()
heartbeat.close()
print("leaves", flush=True)
sys.stdin.readline()
"""


class LeavingWorker:
    """A router worker that does not end before it is told to."""

    def __init__(self, heartbeats: Path) -> None:
        command = [sys.executable, "-c", LEAVING_WORKER, str(heartbeats)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.says("serves")

    def proceed(self) -> None:
        print(file=self.process.stdin, flush=True)

    def says(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word


async def test_a_reload_ends_with_the_processes_of_the_workers_not_with_their_heartbeats(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    async with appliance(plan) as box, box.control() as controller:
        await box.until_status("chat-a", S.READY)
        worker = LeavingWorker(plan.paths.heartbeats)
        with worker.process:
            first = controller._changed(Change(action=Action.RELOAD), None).operation
            worker.proceed()
            worker.says("leaves")
            second = controller._changed(Change(action=Action.RELOAD), None).operation
        third = controller._changed(Change(action=Action.RELOAD), None).operation
    assert first is not None
    assert third is not None
    assert first == second
    assert third.id != first.id
