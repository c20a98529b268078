"""An engine whose GPU memory is held by others, with a real supervisord: it waits, says so, and starts when it can."""

import asyncio
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from berth.host.gpu_usage import Gpus
from berth.ipc.control_socket import ask
from berth.ipc.operations import Action, Change, OperationState, Reply, Request
from berth.plan import DriverState, Gpu, GpuInventory, Load, ModelRoute, Plan, Task
from berth.processes import REPLICA_MARKER
from berth.state import ReplicaStatus
from tests.control.harness import FAST, appliance, engine, plan_of
from tests.fakes.silent_nvml import SilentNvml

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
GIB = 2**30
S = ReplicaStatus


@dataclass
class HeldNvml(SilentNvml):
    """A GPU of which others hold so much."""

    NVMLError: type[Exception] = RuntimeError
    used_gib: float = 0.5

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        """Always succeeds."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - NVML's name
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: ARG002, N802 - NVML's name and arguments
        if self.used_gib < 0:
            raise RuntimeError("GPU is lost")
        return SimpleNamespace(used=int(self.used_gib * GIB), total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: ARG002, N802 - NVML's name and arguments
        return SimpleNamespace(gpu=0)


def plan_on_gpu(folder: Path) -> Plan:
    """One engine that takes half of a GPU."""
    gpu = Gpu(
        index=0,
        uuid="GPU-0",
        name="Fake",
        memory_total_bytes=80 * GIB,
        memory_free_bytes=80 * GIB,
        compute_capability="9.0",
    )
    plan = plan_of(folder, replace(engine(folder, "chat-a", gpus=(0,)), memory_fraction=0.5))
    return replace(plan, inventory=GpuInventory(state=DriverState.OK, gpus=(gpu,)))


async def test_starts_only_once_the_memory_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nvml = HeldNvml(used_gib=60)
    leftover = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=-1, env=os.environ | {REPLICA_MARKER: f"{tmp_path}:chat-a"}
    )
    async with appliance(plan_on_gpu(tmp_path)) as box, box.control(FAST, gpus=Gpus([0], nvml=nvml)):
        loading = Request(change=Change(action=Action.RESTART, model="chat"))
        held = "GPU 0: 19.5 GiB of 39.5 GiB are not free; on it: nothing that is visible in this container"
        waiting = await box.until(lambda states: states["chat-a"].memory_not_free == held)
        assert await leftover.wait()
        assert waiting["chat-a"].status is S.WAITING
        assert f"waits for memory: {held}" in waiting["chat-a"].reason
        reply = await ask(box.plan.paths.control_socket, loading)
        assert reply.operation is not None
        ended = (await ask(box.plan.paths.control_socket, Request(operation=reply.operation.id))).operation
        assert ended is not None
        assert (ended.state, ended.reason.split(":")[0]) == (OperationState.FAILED, "memory_not_free")
        assert box.starts("chat-a") == []

        nvml.used_gib = 30
        ready = await box.until_status("chat-a", S.READY)
        assert ready.memory_not_free == ""
    assert caplog.text.count("GPU memory not free") == 1


async def test_starts_without_a_proof_where_nothing_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = Gpus([0], nvml=HeldNvml(used_gib=-1))
    async with appliance(plan_on_gpu(tmp_path)) as box, box.control(FAST, gpus=gpus):
        await box.until_status("chat-a", S.READY)
    assert "GPU memory cannot be read, engine starts without a proof that it is free" in caplog.text


def two_models(folder: Path) -> Plan:
    """By request: one takes 30 % of the GPU, the other 80 %."""
    shares = {"old": 300, "new": 800}
    replicas = [
        replace(engine(folder, f"{name}-a", gpus=(0,)), model=name, memory_fraction=share / 1000)
        for name, share in shares.items()
    ]
    routes = [
        ModelRoute(
            name=name,
            source="x",
            task=Task.GENERATE,
            load=Load.ON_REQUEST,
            replicas=(f"{name}-a",),
            room={0: share},
            min_residency_s=0.0,
            max_wait_s=0.0,
        )
        for name, share in shares.items()
    ]
    return replace(plan_on_gpu(folder), models=tuple(routes), replicas=tuple(replicas), room={0: 900})


async def test_no_model_leaves_for_one_whose_memory_something_else_holds(tmp_path: Path) -> None:
    nvml = HeldNvml(used_gib=0.5)
    async with appliance(two_models(tmp_path)) as box, box.control(FAST, gpus=Gpus([0], nvml=nvml)):

        async def load(model: str, *, dry_run: bool = False) -> Reply:
            change = Change(action=Action.LOAD, model=model, dry_run=dry_run)
            return await ask(box.plan.paths.control_socket, Request(change=change))

        await box.until(lambda states: states["old-a"].status is S.UNLOADED)
        is_loading = box.flag("old-a", "sick")
        is_loading.touch()
        assert (await load("old")).operation is not None
        await box.until_status("old-a", S.STARTING)
        nvml.used_gib = 24.5
        is_loading.unlink()
        await box.until_status("old-a", S.READY)
        steps = (await load("new", dry_run=True)).steps
        assert [(one.replica, one.to) for one in steps] == [("old-a", S.UNLOADED), ("new-a", S.READY)]

        nvml.used_gib = 24.5 + 20
        held = "GPU 0: 4.0 GiB of 63.5 GiB are not free; on it: old-a (ready)"
        await box.until(lambda states: states["new-a"].memory_not_free == held)
        reply = await load("new")
        assert reply.operation is not None
        assert reply.operation.reason == f"memory_not_free: new-a: {held}"
        assert (box.states()["old-a"].status, box.starts("new-a")) == (S.READY, [])

        nvml.used_gib = 24.5
        await box.until(lambda states: not states["new-a"].memory_not_free)
        await ask(box.plan.paths.control_socket, Request(change=Change(action=Action.UNLOAD, model="old")))
        nvml.used_gib = 0.5
        await box.until_status("old-a", S.UNLOADED)
        assert (await load("new")).operation is not None
        await box.until_status("new-a", S.READY)
