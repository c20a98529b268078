"""A router over simulated engines of every dialect and task, each a model of its own: "vllm", "rerank-sglang"."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from berth.plan import DialectName, ModelRoute, Replica, Task
from berth.state import ReplicaStatus
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state, route
from tests.sim.harness import running

GENERATING = (DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM)
POOLING = (DialectName.VLLM, DialectName.SGLANG)


def model_name(task: Task, dialect: DialectName) -> str:
    return str(dialect) if task is Task.GENERATE else f"{task}-{dialect}"


@contextmanager
def box_of(*tasks: Task, dialects: tuple[DialectName, ...] | None = None, **options: Any) -> Iterator[RouterProcess]:
    """Every dialect that can do the task, unless some are named."""
    run_dir = tempfile.mkdtemp(prefix="br-")
    try:
        with ExitStack() as stack:
            replicas: list[Replica] = []
            for task in tasks:
                for dialect in dialects or (GENERATING if task is Task.GENERATE else POOLING):
                    name = model_name(task, dialect)
                    server = stack.enter_context(running(dialect, task=task, names=(name,), **options))
                    url = f"http://127.0.0.1:{server.port}"
                    replicas.append(replica(f"{name}-x", url, dialect=dialect, task=task, vocab_size=32000))
            routes = [route(one.model, [one.name], task=one.task) for one in replicas]
            yield stack.enter_context(_routing(run_dir, replicas, routes))
    finally:
        shutil.rmtree(run_dir)


@contextmanager
def pair_of(task: Task, first: DialectName, second: DialectName, *faults: str) -> Iterator[RouterProcess]:
    """One model, "m", on two engines; the first has the faults."""
    run_dir = tempfile.mkdtemp(prefix="br-")
    try:
        with (
            running(first, *faults, task=task, names=("m",)) as one,
            running(second, task=task, names=("m",)) as two,
        ):
            replicas = [
                replica(f"m-{place}", f"http://127.0.0.1:{server.port}", dialect=dialect, task=task, vocab_size=32000)
                for place, (server, dialect) in enumerate(((one, first), (two, second)))
            ]
            routes = [route("m", [one.name for one in replicas], task=task)]
            with _routing(run_dir, replicas, routes) as box:
                yield box
    finally:
        shutil.rmtree(run_dir)


@contextmanager
def _routing(run_dir: str, replicas: list[Replica], routes: list[ModelRoute]) -> Iterator[RouterProcess]:
    plan = make_plan(run_dir, replicas, routes)
    publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in replicas))
    box = RouterProcess(plan)
    try:
        box.await_answer()
        yield box
    finally:
        box.end()
