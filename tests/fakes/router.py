"""The router as a process of its own, as supervisord starts it, and plans for it whose engines are fakes."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from berth.plan import (
    DialectName,
    DriverState,
    EngineName,
    Gpu,
    GpuInventory,
    Keys,
    Launch,
    Limits,
    Listen,
    Logs,
    ModelRoute,
    Plan,
    Probe,
    Replica,
    Restarts,
    RunPaths,
    Standby,
    Task,
)
from berth.processes import replace_file
from berth.state import ReplicaState, ReplicaStatus, State
from tests.fakes.ports import free_port

ENGINES = {
    DialectName.VLLM: EngineName.VLLM,
    DialectName.SGLANG: EngineName.SGLANG,
    DialectName.TRTLLM: EngineName.TRTLLM,
}
LIMITS = Limits(
    max_body_bytes=1 << 20,
    first_token_timeout_s=2,
    token_timeout_s=2,
    queue_timeout_s=5,
    client_stall_timeout_s=1,
    drain_timeout_s=2,
    key_slots=10,
)


def replica(
    name: str,
    url: str,
    *,
    dialect: DialectName = DialectName.VLLM,
    task: Task = Task.GENERATE,
    launched: bool = False,
    vocab_size: int | None = None,
    concurrency: int | None = None,
    share: float = 1.0,
) -> Replica:
    """Of the model in the name's first part: "chat-a" is of "chat"."""
    return Replica(
        name=name,
        model=name.rpartition("-")[0],
        engine=ENGINES.get(dialect, EngineName.REMOTE),
        dialect=dialect,
        task=task,
        url=url,
        served_name=name.rpartition("-")[0],
        vocab_size=vocab_size,
        concurrency=concurrency,
        share=share,
        launch=Launch(argv=("true",)) if launched else None,
        ready=Probe(path="/health"),
        alive=Probe(path="/health"),
    )


def route(
    name: str,
    replicas: Sequence[str],
    *,
    task: Task = Task.GENERATE,
    aliases: tuple[str, ...] = (),
    context: int | None = None,
    standby: Standby = Standby.COLD,
) -> ModelRoute:
    return ModelRoute(
        name=name,
        source=f"org/{name}",
        task=task,
        replicas=tuple(replicas),
        aliases=aliases,
        context=context,
        standby=standby,
    )


def make_plan(
    run_dir: str, replicas: Sequence[Replica], routes: Sequence[ModelRoute] = (), limits: Limits = LIMITS
) -> Plan:
    """Without routes: one per model of the replicas."""
    models = {r.model: [other.name for other in replicas if other.model == r.model] for r in replicas}
    return Plan(
        created=1_700_000_000,
        paths=RunPaths(run_dir=run_dir, data_dir=f"{run_dir}/data"),
        listen=Listen(host="127.0.0.1", port=free_port(), workers=1),
        limits=limits,
        restarts=Restarts(),
        logs=Logs(),
        inventory=GpuInventory(
            state=DriverState.OK,
            gpus=(
                Gpu(
                    index=0,
                    uuid="GPU-0",
                    name="H200",
                    memory_total_bytes=8 << 30,
                    memory_free_bytes=8 << 30,
                    compute_capability="9.0",
                ),
            ),
        ),
        models=tuple(routes) or tuple(route(name, names) for name, names in models.items()),
        replicas=tuple(replicas),
        open_access=True,
    )


def replica_state(name: str, status: ReplicaStatus, **fields: object) -> ReplicaState:
    return ReplicaState(name=name, status=status, since=1.0, **fields)  # type: ignore[arg-type] # the tests' own fields


def publish(plan: Plan, *states: ReplicaState, sequence: int = 1, **more: Any) -> None:
    """As control does."""
    state = State(sequence=sequence, published_at=time.time(), control_pid=1, replicas=states, **more)
    replace_file(plan.paths.state, state.to_json())


class RouterProcess:
    """`berth router`, started and answering."""

    def __init__(self, plan: Plan, keys: Keys | None = None, *, prefix: Sequence[str] = ()) -> None:
        """`prefix`: the words before the command."""
        self.plan = plan
        self.url = f"http://{plan.listen.host}:{plan.listen.port}"
        self._log = Path(plan.paths.run_dir, f"router-{time.monotonic_ns()}.log")
        plan.paths.plan.write_bytes(plan.to_json())
        plan.paths.keys.write_bytes((keys or Keys()).to_json())
        command = [*prefix, sys.executable, "-m", "berth", "router", "--run-dir", plan.paths.run_dir]
        with self._log.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    def await_answer(self, patience_s: float = 60) -> None:
        self.await_true(self._answers, patience_s)

    def await_true(self, check: Callable[[], object], patience_s: float = 60) -> None:
        """Waits until `check()` is true."""
        deadline = time.monotonic() + patience_s
        while not check():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def make_well(self, *states: ReplicaState) -> None:
        """As control does when it has started replicas again: what they did before does not count. `states`: what it
        publishes then.
        """
        names = [one.name for one in self.plan.replicas]
        publish(self.plan, *(replica_state(name, ReplicaStatus.UNHEALTHY) for name in names))
        self.await_true(lambda: self._says({ReplicaStatus.UNHEALTHY}))
        publish(self.plan, *states)
        self.await_true(lambda: self._says({state.status for state in states}))

    def _says(self, statuses: set[ReplicaStatus]) -> bool:
        models = httpx.get(f"{self.url}/ready").json()["models"].values()
        return {status for model in models for status in model["replicas"].values()} == set(statuses)

    def left_alone(self) -> set[str]:
        """The replicas that the router does not trust."""
        document = httpx.get(f"{self.url}/status").json()
        rows = [row for model in document["models"] for row in model["replicas"]]
        return {row["name"] for row in rows if not row["reachable"]}

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """The exit code."""
        self.process.send_signal(signum)
        return self.process.wait(60)

    def end(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.stop()

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
