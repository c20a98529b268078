"""An engine whose GPU memory is held by others, with a real supervisord: it waits, says so, and starts when it can."""

import asyncio
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from berth.control_socket import ask
from berth.host.gpu_usage import Gpus
from berth.operations import Action, Change, OperationState, Request
from berth.plan import DriverState, Gpu, GpuInventory, Plan
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
        waiting = await box.until(lambda states: bool(states["chat-a"].memory_not_free))
        assert await leftover.wait()
        assert waiting["chat-a"].status is S.WAITING
        held = "GPU 0: 19.5 GiB of 39.5 GiB are not free; on it: nothing that is visible in this container"
        assert waiting["chat-a"].memory_not_free == held
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
