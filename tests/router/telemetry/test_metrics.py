from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from berth.canonical import Operation, Usage
from berth.router.exchange.outcomes import ContinuationBlocker, Outcome
from berth.router.telemetry.metrics import Meter, Refusal, exposition, layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import GpuState, ReplicaState, ReplicaStatus, State
from tests.fakes.router import make_plan, replica, replica_state
from tests.fakes.scoreboard import FakeScoreboard

REPLICA = replica("chat-vllm", "http://127.0.0.1:1")
PLAN = make_plan("/run", [REPLICA])
STATUSES = {REPLICA.name: replica_state(REPLICA.name, ReplicaStatus.READY, restarts=3)}
Samples = dict[tuple[str, ...], float]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Scoreboard]:
    Scoreboard.create(tmp_path / "scoreboard", layout(PLAN), rows=1)
    board = Scoreboard(tmp_path / "scoreboard", layout(PLAN))
    yield board
    board.close()


def samples(board: Scoreboard, state: State | None = None, statuses: dict[str, ReplicaState] = STATUSES) -> Samples:
    """As Prometheus reads them: (name, label values in the labels' order) -> number."""
    text = exposition(PLAN, board, state, statuses).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_everything_counted_is_exposed(board: Scoreboard) -> None:
    meter = Meter(board)
    meter.request("chat", Operation.CHAT, 200)
    meter.request("", Operation.CHAT, 404)
    meter.attempt(REPLICA, Outcome.BROKEN)
    meter.fallback(REPLICA)
    meter.broken_stream("chat", ContinuationBlocker.SEED)
    meter.continued("chat")
    meter.frames(REPLICA, 12)
    meter.tokens("chat", Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=2))
    meter.in_flight("chat", 1)
    meter.on_replica(REPLICA, 1)
    meter.queued("chat", 2)
    meter.refused("chat", Refusal.FULL)
    meter.waited("chat", 0.3)

    seen = samples(board)

    assert seen["berth_requests_total", "chat", "chat", "200"] == 1
    assert seen["berth_requests_total", "", "chat", "404"] == 1
    assert seen["berth_attempts_total", "vllm", "broken", "chat-vllm"] == 1
    assert seen["berth_fallbacks_total", "vllm", "chat-vllm"] == 1
    assert seen["berth_streams_broken_total", "chat", "seed"] == 1
    assert seen["berth_streams_continued_total", "chat"] == 1
    assert seen["berth_stream_frames_total", "vllm", "chat-vllm"] == 12
    assert [seen["berth_tokens_total", kind, "chat"] for kind in ("prompt", "completion", "cached")] == [5, 7, 2]
    assert seen["berth_requests_in_flight", "chat"] == 1
    assert seen["berth_replica_requests_in_flight", "vllm", "chat-vllm"] == 1
    assert seen["berth_queue_length", "chat"] == 2
    assert seen["berth_queue_refused_total", "chat", "full"] == 1
    assert seen["berth_queue_wait_seconds_sum", "chat"] == 0.3


def test_what_all_workers_do_can_be_asked_at_once(tmp_path: Path) -> None:
    Scoreboard.create(tmp_path / "scoreboard", layout(PLAN), rows=2)
    board = FakeScoreboard(tmp_path / "scoreboard", layout(PLAN))
    meter = Meter(board)
    board.show(memoryview(array("d", [1.0] * board.layout.width)))
    meter.on_replica(REPLICA, 2)
    meter.queued("chat", 3)

    assert (meter.load(REPLICA), meter.own_load(REPLICA)) == (3, 2)
    assert (meter.queue_length("chat"), meter.other_queues("chat")) == (4, 1)
    board.close()


def test_a_status_that_is_not_expected_is_counted_as_500(board: Scoreboard) -> None:
    Meter(board).request("chat", Operation.CHAT, 418)

    assert samples(board)["berth_requests_total", "chat", "chat", "500"] == 1


def test_histograms_are_cumulative(board: Scoreboard) -> None:
    meter = Meter(board)
    for seconds in (0.005, 0.3, 1000):
        meter.first_token("chat", seconds)
        meter.duration("chat", seconds)

    seen = samples(board)

    name = "berth_time_to_first_token_seconds"
    buckets = [seen[f"{name}_bucket", bound, "chat"] for bound in ("0.005", "0.25", "0.5", "300.0", "+Inf")]
    assert buckets == [1, 1, 2, 2, 3]
    assert seen[f"{name}_count", "chat"] == 3
    assert seen[f"{name}_sum", "chat"] == pytest.approx(1000.305)
    assert seen["berth_request_duration_seconds_count", "chat"] == 3


def test_the_state_is_shown_as_gauges(board: Scoreboard) -> None:
    gpus = (
        GpuState(index=0, memory_used_bytes=5, memory_total_bytes=8, utilization_percent=50),
        GpuState(index=1, memory_used_bytes=1, memory_total_bytes=8),
    )
    state = State(sequence=1, published_at=0, control_pid=1, replicas=(), gpus=gpus)

    seen = samples(board, state)

    assert seen["berth_replica_ready", "vllm", "chat", "chat-vllm"] == 1
    assert seen["berth_replica_restarts_total", "vllm", "chat", "chat-vllm"] == 3
    assert seen["berth_gpu_memory_used_bytes", "0", "GPU-0"] == 5
    assert seen["berth_gpu_utilization_ratio", "0", "GPU-0"] == 0.5
    assert ("berth_gpu_utilization_ratio", "1", "") not in seen
    assert seen["berth_state_age_seconds",] > 1_000_000
    assert seen["berth_router_workers",] == 1


def test_without_a_state_there_are_no_gauges_of_it(board: Scoreboard) -> None:
    assert ("berth_state_age_seconds",) not in samples(board)
