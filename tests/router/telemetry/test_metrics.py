from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Operation, Usage
from berth.errors import ApiError
from berth.ipc.capture import Capture
from berth.router.exchange.inflight import InflightRequest
from berth.router.exchange.outcomes import ContinuationBlocker, Outcome
from berth.router.exchange.request import RequestContext
from berth.router.server.api_routes import formats
from berth.router.telemetry.metrics import STATUSES as COUNTED
from berth.router.telemetry.metrics import Meter, Rejection, exposition, layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import GpuState, ReplicaState, ReplicaStatus, State
from tests.fakes.key_board import key_board
from tests.fakes.responses import Memory
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


def request(*, accepted: bool = True, **fields: Any) -> RequestContext:
    """One that is over."""
    ctx = RequestContext(OpenaiChat(), "x", InflightRequest.__new__(InflightRequest))
    if accepted:
        ctx.accept(InferenceRequest(operation=Operation.CHAT, model="chat", body={}), PLAN.models[0])
    for name, value in fields.items():
        setattr(ctx, name, value)
    return ctx


def test_exposes_all_metrics(board: Scoreboard, tmp_path: Path) -> None:
    meter = Meter(board, key_board(board, PLAN, tmp_path))
    usage = Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=2)
    meter.observe(request(status=200, continued=True, usage=usage))
    meter.observe(request(accepted=False, status=404))
    meter.attempt(REPLICA, Outcome.BROKEN)
    meter.fallback(REPLICA)
    meter.broken_stream("chat", ContinuationBlocker.SEED)
    meter.frames(REPLICA, 12)
    meter.on_replica(REPLICA, 1)
    meter.queued("chat", 2)
    meter.rejected("chat", Rejection.FULL)
    meter.waited("chat", 0.3)

    meter.in_flight("chat", 1)
    seen = samples(board)
    meter.in_flight("chat", -1)

    assert seen["berth_requests_total", "chat", "chat", "200"] == 1
    assert seen["berth_requests_total", "", "chat", "404"] == 1
    assert seen["berth_attempts_total", "vllm", "broken", "chat-vllm"] == 1
    assert seen["berth_fallbacks_total", "vllm", "chat-vllm"] == 1
    assert seen["berth_streams_broken_total", "chat", "seed"] == 1
    assert seen["berth_streams_continued_total", "chat"] == 1
    assert seen["berth_stream_frames_total", "vllm", "chat-vllm"] == 12
    assert [seen["berth_tokens_total", kind, "chat"] for kind in ("prompt", "completion", "cached")] == [5, 7, 2]
    assert seen["berth_requests_in_flight", "chat"] == 1
    assert samples(board)["berth_requests_in_flight", "chat"] == 0
    assert seen["berth_replica_requests_in_flight", "vllm", "chat-vllm"] == 1
    assert seen["berth_queue_length", "chat"] == 2
    assert seen["berth_queue_refused_total", "chat", "full"] == 1
    assert seen["berth_queue_wait_seconds_sum", "chat"] == 0.3


def test_reads_load_and_queues_over_all_workers(tmp_path: Path) -> None:
    Scoreboard.create(tmp_path / "scoreboard", layout(PLAN), rows=2)
    board = FakeScoreboard(tmp_path / "scoreboard", layout(PLAN))
    meter = Meter(board, key_board(board, PLAN, tmp_path))
    board.show(memoryview(array("d", [1.0] * board.layout.width)))
    meter.on_replica(REPLICA, 2)
    meter.queued("chat", 3)

    assert (meter.load(REPLICA), meter.own_load(REPLICA)) == (3, 2)
    assert (meter.queue_length("chat"), meter.other_queues("chat")) == (4, 1)
    board.close()


def test_unexpected_status_counts_as_500(board: Scoreboard, tmp_path: Path) -> None:
    Meter(board, key_board(board, PLAN, tmp_path)).observe(request(status=418))

    assert samples(board)["berth_requests_total", "chat", "chat", "500"] == 1


def test_histograms_are_cumulative(board: Scoreboard, tmp_path: Path) -> None:
    meter = Meter(board, key_board(board, PLAN, tmp_path))
    for seconds in (0.005, 0.3, 1000):
        meter.observe(request(first_token_s=seconds))

    seen = samples(board)

    name = "berth_time_to_first_token_seconds"
    buckets = [seen[f"{name}_bucket", bound, "chat"] for bound in ("0.005", "0.25", "0.5", "300.0", "+Inf")]
    assert buckets == [1, 1, 2, 2, 3]
    assert seen[f"{name}_count", "chat"] == 3
    assert seen[f"{name}_sum", "chat"] == pytest.approx(1000.305)
    assert seen["berth_request_duration_seconds_count", "chat"] == 3


def test_state_is_exposed_as_gauges(board: Scoreboard) -> None:
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
    assert seen["berth_capture_active",] == 0
    assert samples(board, replace(state, capture=Capture(ends=1.0)))["berth_capture_active",] == 1


def test_no_state_gauges_without_state(board: Scoreboard) -> None:
    assert ("berth_state_age_seconds",) not in samples(board)


def every_error(cls: type[ApiError]) -> Iterator[type[ApiError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from every_error(child)


@pytest.mark.parametrize("error", [*every_error(ApiError)])
def test_counts_every_status_that_an_api_sends(error: type[ApiError]) -> None:
    sent = {api.status(error("x")) for api in formats(Memory()).values()}

    assert sent <= set(COUNTED)
