"""What is kept of a start, and that nothing depends on it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.decisions.records import Record
from berth.control.logs.load_progress import Tracker
from berth.control.logs.start_memory import StartMemory
from berth.control.measuring import keep_measurement
from berth.host.gpu_usage import Gpus
from berth.plan import EngineName, Launch, MeasuredAs, Plan, Replica, RunPaths
from berth.records import measured
from berth.state import ReplicaStatus
from tests.control.harness import appliance, engine, plan_of
from tests.fakes.plans import GPU_PLAN

OF = MeasuredAs(engine=EngineName.VLLM, version="1", gpu_kind="x", gpus=1, model="m", arguments="")
MEMORY = StartMemory(weights=15, kv=50, tokens=400_000, context=40_960)


def as_measured(replica: Replica, *argv: str) -> Replica:
    launch = replica.launch or Launch(argv=())
    share = ("--gpu-memory-utilization", "0.9")
    return replace(replica, gpus=(0,), measured_as=OF, launch=replace(launch, argv=(*launch.argv, *argv, *share)))


def plan_in(folder: Path) -> Plan:
    return replace(GPU_PLAN, paths=RunPaths(run_dir=str(folder), data_dir=str(folder)))


def record(memory: StartMemory) -> Record:
    replica = as_measured(GPU_PLAN.replicas[0])
    return Record(replica=replica, status=ReplicaStatus.READY, since=0, tracker=Tracker(memory=memory))


def test_a_start_is_kept_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "berth"):
        keep_measurement(record(MEMORY), plan_in(tmp_path))

    assert measured.read(str(tmp_path)).find(OF) is not None
    assert "memory measured" in caplog.text


def test_a_start_that_says_nothing_leaves_no_file(tmp_path: Path) -> None:
    keep_measurement(record(StartMemory()), plan_in(tmp_path))

    assert not measured.path(str(tmp_path)).exists()


@pytest.mark.parametrize("newer", [True, False])
def test_a_file_that_cannot_be_written_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, newer: bool
) -> None:
    file = measured.path(str(tmp_path))
    if newer:
        file.parent.mkdir()
        file.write_text('{"version": 99}')
    else:
        file.mkdir(parents=True)

    keep_measurement(record(MEMORY), plan_in(tmp_path))

    assert "measurement not kept" in caplog.text


@pytest.mark.anyio
@pytest.mark.timeout(60)
async def test_control_measures_a_start(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, as_measured(engine(tmp_path, "chat-a", "slow=1")))
    plan = replace(plan, inventory=GPU_PLAN.inventory)
    lines = (
        "Model loading took 15.00 GiB memory and 1.0 seconds",
        "Available KV cache memory: 50.0 GiB",
        "GPU KV cache size: 400,000 tokens, Maximum concurrency for 40,960 tokens per request: 9.77x",
    )
    async with appliance(plan) as box, box.control(gpus=Gpus([])):
        await box.until_status("chat-a", ReplicaStatus.STARTING)
        with plan.paths.replica_log("chat-a").open("a") as log:
            log.write("".join(f"{line}\n" for line in lines))
        await box.until_status("chat-a", ReplicaStatus.READY)
        async with asyncio.timeout(10):
            while not (found := measured.read(plan.paths.data_dir).find(OF)):  # noqa: ASYNC110 - it is a file
                await asyncio.sleep(0.02)

    assert (found.weights_bytes, found.kv_bytes) == (15 * 2**30, 50 * 2**30)
    assert (found.kv_tokens, found.starts) == (400_000, 1)
