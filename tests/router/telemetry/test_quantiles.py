"""P50, P95 and P99 of the last minutes: their error, their window, and that sketches merge."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Operation, Usage
from berth.ipc.journal import BROKEN
from berth.router.exchange.inflight import InflightRequest
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.quantiles import (
    BOUNDS,
    ERROR,
    LEAST_S,
    SAMPLE_S,
    WIDTH,
    WINDOW_S,
    Window,
    quantile,
    quantile_metrics,
    sides,
)
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import Canary
from tests.fakes.key_board import key_board
from tests.fakes.router import make_plan, replica, route

REPLICAS = [replica("chat-a", "http://127.0.0.1:1"), replica("chat-b", "http://127.0.0.1:2")]
PLAN = make_plan("/run", REPLICAS, [route("chat", ["chat-a", "chat-b"])])
SHARES = (0.5, 0.95, 0.99)
values_s = st.lists(st.floats(LEAST_S, BOUNDS[-1]), min_size=1, max_size=200)


def sketch(values: list[float]) -> list[float]:
    counts = [0.0] * WIDTH
    for value in values:
        counts[sum(bound < value for bound in BOUNDS)] += 1
    return counts


def exact(values: list[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


@given(values_s, st.sampled_from(SHARES))
def test_a_quantile_is_at_most_6_percent_off(values: list[float], share: float) -> None:
    found = quantile(sketch(values), share)

    assert found is not None
    assert abs(found / exact(values, share) - 1) <= ERROR + 1e-3
    assert ERROR < 0.06


@given(values_s, values_s, st.sampled_from(SHARES))
def test_merged_sketches_are_those_of_all_values(first: list[float], second: list[float], share: float) -> None:
    merged = [a + b for a, b in zip(sketch(first), sketch(second), strict=True)]

    assert quantile(merged, share) == quantile(sketch([*first, *second]), share)


@pytest.mark.parametrize(("values", "found"), [([], None), ([0.0], LEAST_S), ([1e9], BOUNDS[-1])])
def test_what_is_out_of_range_counts_as_the_bound(values: list[float], found: float | None) -> None:
    assert quantile(sketch(values), 0.99) == (found if found is None else pytest.approx(found))


class Workers:
    """Two of one plan, and a clock that the test sets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("berth.router.telemetry.metrics.time.monotonic", lambda: self.now)
        Scoreboard.create(folder / "board", layout(PLAN), rows=2)
        self.boards = [Scoreboard(folder / "board", layout(PLAN)) for _ in range(2)]
        self.meters = [Meter(board, key_board(board, PLAN, folder)) for board in self.boards]
        self.window = Window(PLAN, self.boards[0].layout)

    def answer(self, side: int, worker: int = 0, **given: Any) -> None:
        values = {"first_s": None, "total_s": 1.0, "tokens": 11, "status": 200, "frames": 0, "flags": 0, **given}
        ctx = RequestContext(OpenaiChat(), "x", InflightRequest.__new__(InflightRequest))
        ctx.accept(InferenceRequest(operation=Operation.CHAT, model="chat", body={}), PLAN.models[0])
        ctx.since, ctx.first_token_s = self.now - values["total_s"], values["first_s"]
        ctx.status, ctx.flags, ctx.frames = values["status"], values["flags"], values["frames"]
        ctx.served_by, ctx.usage = REPLICAS[side], Usage(completion_tokens=values["tokens"])
        self.meters[worker].observe(ctx)

    def of(self, *names: str) -> dict[str, Any]:
        return self.window.latest(self.boards[1].sums(self.window.span)).document(names)

    def keep(self) -> None:
        self.window.keep(self.boards[0].sums(self.window.span), self.now)


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workers:
    workers = Workers(tmp_path, monkeypatch)
    workers.keep()
    return workers


def near(value: float) -> object:
    return pytest.approx(value, rel=ERROR + 1e-3)


def test_sides_and_their_model_over_all_workers(workers: Workers) -> None:
    for worker in (0, 1):
        workers.answer(0, worker, first_s=0.1, total_s=0.6)
        workers.answer(1, worker, first_s=0.2, total_s=2.2)

    a, b, model = workers.of("chat-a"), workers.of("chat-b"), workers.of("chat-a", "chat-b")

    assert a["first_token_s"] == {"p50": near(0.1), "p95": near(0.1), "p99": near(0.1), "responses": 2}
    assert a["token_gap_s"] == {"p50": near(0.05), "p95": near(0.05), "p99": near(0.05), "responses": 2}
    assert b["total_s"] == {"p50": near(2.2), "p95": near(2.2), "p99": near(2.2), "responses": 2}
    assert model["total_s"] == {"p50": near(0.6), "p95": near(2.2), "p99": near(2.2), "responses": 4}


def test_sides_of_a_migration_are_the_candidate_and_what_it_is_compared_with(workers: Workers) -> None:
    for first_s in (0.1, 0.1, 0.2):
        workers.answer(0, first_s=first_s, total_s=1.0)
    workers.answer(1, first_s=0.4, total_s=2.0)
    canary = Canary(model="chat", replica="chat-b", share=0.25, salt="s")
    latest = workers.window.latest(workers.boards[1].sums(workers.window.span))

    assert sides(canary, ("chat-a", "chat-b")) == {"candidate": ("chat-b",), "stable": ("chat-a",)}
    *_, by_side = quantile_metrics(PLAN, latest, (canary,))
    found = {
        (one.labels["side"], one.labels["percentile"]): one.value
        for one in by_side.samples
        if one.labels["quantity"] == "first_token"
    }
    assert found["stable", "p50"] == near(0.1)
    assert found["stable", "p99"] == near(0.2)
    assert found["candidate", "p50"] == found["candidate", "p99"] == near(0.4)
    *_, by_side = quantile_metrics(PLAN, latest)
    assert by_side.samples == []


def test_only_what_came_to_its_end_without_an_error_counts(workers: Workers) -> None:
    workers.answer(0, status=503)
    workers.answer(0, status=400)
    workers.answer(0, first_s=0.1, flags=BROKEN)
    assert workers.of("chat-a")["total_s"] is None

    workers.answer(0)
    workers.answer(0, first_s=0.1, tokens=1)
    workers.answer(0, first_s=0.1, total_s=1.1, tokens=0, frames=11)
    found = workers.of("chat-a")
    counts = [found[name]["responses"] for name in ("first_token_s", "token_gap_s", "total_s")]
    assert counts == [2, 1, 3]
    assert found["token_gap_s"] == {"p50": near(0.1), "p95": near(0.1), "p99": near(0.1), "responses": 1}


def test_responses_leave_the_window_after_its_length(workers: Workers) -> None:
    workers.answer(0)
    for _ in range(round(WINDOW_S / SAMPLE_S) - 1):
        workers.now += SAMPLE_S
        assert workers.now >= workers.window.due
        workers.keep()
        assert workers.of("chat-a")["total_s"] is not None

    workers.now += SAMPLE_S
    workers.keep()
    assert workers.of("chat-a") == {"window_s": WINDOW_S, "first_token_s": None, "token_gap_s": None, "total_s": None}


def test_a_new_file_of_counters_is_an_empty_window(workers: Workers, tmp_path: Path) -> None:
    workers.answer(0)
    workers.keep()
    Scoreboard.create(tmp_path / "new", layout(PLAN), rows=1)
    board = Scoreboard(tmp_path / "new", layout(PLAN))

    assert workers.window.latest(board.sums(workers.window.span)).document(["chat-a"])["total_s"] is None


def test_a_plan_without_replicas_has_an_empty_window(tmp_path: Path) -> None:
    plan = make_plan("/run", [])
    Scoreboard.create(tmp_path / "board", layout(plan), rows=1)
    board = Scoreboard(tmp_path / "board", layout(plan))
    window = Window(plan, board.layout)
    window.keep(board.sums(window.span), 1.0)

    assert list(window.latest(board.sums(window.span)).replicas) == []
