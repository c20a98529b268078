"""A real supervisord with fake engines, and control in this process, where a test can watch it."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from berth.boot.supervisord_conf import render
from berth.control.controller import Controller
from berth.control.decisions.records import Timing
from berth.control.logs.engine_logs import Output
from berth.control.publish import read_state
from berth.host.gpu_usage import Gpus
from berth.plan import Keys, Launch, ModelRoute, Plan, Replica, Restarts, Standby, Task
from berth.processes import ProcessRecord, leftovers, supervisor_record, sweep, write_record
from berth.state import ReplicaState, ReplicaStatus
from tests.fakes.plans import make_plan, make_replica
from tests.fakes.ports import free_port

ENGINE = str(Path(__file__).with_name("engine.py"))
ROOT = Path(__file__).parents[2]

FAST = Timing(
    busy_poll_s=0.05,
    calm_poll_s=0.1,
    heartbeat_s=0.3,
    ready_probe_s=0.05,
    alive_probe_s=0.1,
    log_poll_s=0.02,
    sweep_grace_s=0.5,
    release_timeout_s=1.0,
    release_poll_s=0.02,
    orphaned_grace_s=0.5,
)
BRISK = Restarts(backoff_first_s=0.3, backoff_longest_s=1.0, failures=3, window_s=60)


def engine(
    run_dir: Path,
    name: str,
    *faults: str,
    gpus: tuple[int, ...] = (),
    start_timeout_s: float = 30,
    probe_timeout_s: float = 2,
) -> Replica:
    port = free_port()
    argv = (sys.executable, "-S", "-E", ENGINE, str(run_dir), str(port), *faults)
    replica = make_replica(name, launch=Launch(argv=argv), port=port, stop_timeout_s=1)
    return replace(
        replica,
        gpus=gpus,
        start_timeout_s=start_timeout_s,
        ready=replace(replica.ready, timeout_s=probe_timeout_s),
        alive=replace(replica.alive, timeout_s=probe_timeout_s),
    )


def plan_of(run_dir: Path, *replicas: Replica, standby: Standby = Standby.HOT, restarts: Restarts = BRISK) -> Plan:
    """One model `chat` with these replicas, in this order."""
    plan = make_plan(str(run_dir), *replicas)
    route = ModelRoute(
        name="chat", source="chat", task=Task.GENERATE, standby=standby, replicas=tuple(r.name for r in replicas)
    )
    return replace(plan, restarts=restarts, models=(route,))


@dataclass(kw_only=True)
class Appliance:
    plan: Plan
    supervisord: "subprocess.Popen[bytes]"
    shown: list[str] = field(default_factory=list)  # engine logs on the standard output of control

    @property
    def run_dir(self) -> Path:
        return Path(self.plan.paths.run_dir)

    def states(self) -> dict[str, ReplicaState]:
        state = read_state(self.plan.paths)
        return {replica.name: replica for replica in state.replicas} if state else {}

    def sequence(self) -> int:
        state = read_state(self.plan.paths)
        return state.sequence if state else 0

    async def until(
        self, true: Callable[[dict[str, ReplicaState]], bool], timeout_s: float = 30
    ) -> dict[str, ReplicaState]:
        """Waits for a published State for which `true` holds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not ((states := self.states()) and true(states)):  # noqa: ASYNC110 - the State is a file
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never came; last seen: {self.states()}") from None
        return states

    async def until_status(self, name: str, status: ReplicaStatus, timeout_s: float = 30) -> ReplicaState:
        return (await self.until(lambda states: states[name].status is status, timeout_s))[name]

    def starts(self, name: str) -> list[float]:
        """When the fake engine began, on the monotonic clock."""
        port = self.plan.replica(name).url.rpartition(":")[2]
        try:
            return [float(line) for line in (self.run_dir / f"{port}.started").read_text().split()]
        except FileNotFoundError:
            return []

    def flag(self, name: str, fault: str) -> Path:
        return self.run_dir / f"{self.plan.replica(name).url.rpartition(':')[2]}.{fault}"

    def log(self, name: str) -> str:
        return self.plan.paths.replica_log(name).read_text()

    @asynccontextmanager
    async def control(
        self,
        timing: Timing = FAST,
        orphaned: Callable[[], bool] = lambda: False,
        gpus: Gpus | None = None,
    ) -> AsyncIterator[Controller]:
        """Control runs inside the block, and is stopped as by SIGTERM at its end."""
        output = Output("text", self.shown.append)
        controller = Controller(self.plan, Keys(), orphaned=orphaned, timing=timing, output=output, gpus=gpus)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(controller.run())
            try:
                yield controller
            except BaseException:
                running.cancel()
                raise
            controller.stop()

    async def crash_control(self, true: Callable[[dict[str, ReplicaState]], bool]) -> None:
        """Control runs until `true` holds for its State, and is then killed."""
        controller = Controller(
            self.plan, Keys(), orphaned=lambda: False, timing=FAST, output=Output("text", self.shown.append)
        )
        running = asyncio.ensure_future(controller.run())
        await self.until(true)
        running.cancel()
        await asyncio.wait([running])


@asynccontextmanager
async def appliance(plan: Plan, *, control: str = "") -> AsyncIterator[Appliance]:
    """Supervisord runs with the configuration that boot writes, but without a router.
    `control`: a command line for supervisord to run as control; without it, the test runs control.
    """
    plan.paths.logs.mkdir(parents=True)
    plan.paths.leaders.mkdir()
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())
    plan.paths.supervisord_conf.write_text(_conf(plan, control))
    process = _supervisord(plan)
    write_record(supervisor_record(plan.paths), ProcessRecord(pid=process.pid, start_ticks=0))  # as boot does
    try:
        await _wait_for_socket(plan.paths.supervisord_socket)
        yield Appliance(plan=plan, supervisord=process)
    finally:
        process.kill()  # an ordered stop would take a second; another test does that
        await asyncio.to_thread(process.wait)
        sweep(lambda: [pid for replica in plan.replicas for pid in leftovers(plan.paths, replica.name)], 0)


def _supervisord(plan: Plan) -> "subprocess.Popen[bytes]":
    with (plan.paths.logs / "stdout").open("wb") as stdout:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(plan.paths.supervisord_conf)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )


def _conf(plan: Plan, control: str) -> str:
    conf = render(plan, python=sys.executable)
    programs = conf.split("\n[")
    for index, program in enumerate(programs):
        if program.startswith("program:router"):
            programs[index] = program.replace("autostart=true", "autostart=false")
        elif program.startswith("program:control"):
            text = re.sub(r"command=.*", f"command={control}", program) if control else program
            programs[index] = text if control else text.replace("autostart=true", "autostart=false")
    return "\n[".join(programs)


async def _wait_for_socket(path: Path) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(str(path))
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


def control_command(run_dir: Path) -> str:
    return shlex.join((sys.executable, str(Path(__file__).with_name("program.py")), str(run_dir)))


def gone(pid: int) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter if it goes between opening and reading
        return True
