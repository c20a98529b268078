"""What the memory of a GPU is used for."""

from dataclasses import replace

import pytest

from berth.gpu_parts import Part, parts
from berth.plan import MemoryEstimate
from berth.state import GpuState, ReplicaStatus, State
from tests.fakes.router import make_plan, replica, replica_state

S = ReplicaStatus
MEMORY = MemoryEstimate(weights_bytes=10, kv_bytes_per_token=1, kv_bytes=20, overhead_bytes=5, largest_context=9)
ENGINES = [replace(replica(f"m-{name}", "http://127.0.0.1:1"), gpus=(0,), memory=MEMORY) for name in "ab"]
PLAN = make_plan("/run", ENGINES)
GPU = GpuState(index=0, memory_used_bytes=100, memory_total_bytes=200)


def state(first: ReplicaStatus, second: ReplicaStatus, **taken: int) -> State:
    replicas = (replica_state("m-a", first), replica_state("m-b", second))
    seen = {f"m-{name}": {0: bytes_} for name, bytes_ in taken.items()}
    return State(sequence=1, published_at=1.0, control_pid=1, replicas=replicas, gpu_memory=seen)


@pytest.mark.parametrize(
    ("found", "engines", "foreign"),
    [
        (state(S.READY, S.STANDBY), [("m-a", 10, 20, 5)], 65),
        (state(S.READY, S.STANDBY, a=50), [("m-a", 10, 20, 20)], 50),
        (state(S.READY, S.STANDBY, a=30), [("m-a", 10, 20, 5)], 65),
        (state(S.READY, S.DRAINING, a=90, b=90), [("m-a", 10, 20, 60), ("m-b", 10, 20, 60)], 0),
        (state(S.UNLOADED, S.FAILED), [], 100),
        (state(S.READY, S.ASLEEP, b=3), [("m-a", 10, 20, 5), ("m-b", 0, 0, 3)], 62),
        (state(S.READY, S.ASLEEP), [("m-a", 10, 20, 5)], None),
        (state(S.READY, S.STARTING), [("m-a", 10, 20, 5)], None),
        (state(S.WAKING, S.STOPPING), [], None),
    ],
)
def test_parts_of_engines(found: State, engines: list[tuple[str, int, int, int]], foreign: int | None) -> None:
    seen = parts(PLAN, found, GPU)
    assert [(one.replica, one.weights, one.kv, one.rest) for one in seen.engines] == engines
    assert seen.foreign == foreign


def test_an_engine_without_a_plan_of_its_memory_leaves_the_rest_unknown() -> None:
    plan = make_plan("/run", [replace(ENGINES[0], memory=None), ENGINES[1]])
    seen = parts(plan, state(S.READY, S.READY), GPU)
    assert seen.engines == (Part(replica="m-b", weights=10, kv=20, rest=5),)
    assert seen.foreign is None


def test_other_gpus_count_apart() -> None:
    assert parts(PLAN, state(S.READY, S.READY), replace(GPU, index=1)).foreign == 100


def test_a_replica_that_control_does_not_know_yet_has_nothing() -> None:
    assert parts(PLAN, replace(state(S.READY, S.READY), replicas=()), GPU).engines == ()
