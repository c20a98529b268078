from dataclasses import replace
from typing import Any

import pytest

from berth.canonical import Failure, FailureKind
from berth.dialects.failures import failure_of
from berth.errors import (
    ApiError,
    ContextLengthError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
    UpstreamError,
)
from berth.plan import EngineName, Load
from berth.router.balancing import selection
from berth.router.balancing.circuit_breaker import CircuitBreaker
from berth.router.exchange import outcomes as routing
from berth.router.exchange.outcomes import Attempt, Outcome
from berth.state import BERTH_STOPS, Progress, ReplicaState, ReplicaStatus
from tests.fakes.router import replica, replica_state, route

READY, STARTING, FAILED = ReplicaStatus.READY, ReplicaStatus.STARTING, ReplicaStatus.FAILED
ROUTE = route("chat", ["chat-a", "chat-b", "chat-c"])
REPLICAS = {name: replica(name, "http://127.0.0.1:1", launched=True) for name in ROUTE.replicas}
ATTACHED = {name: replica(name, "http://127.0.0.1:1") for name in ROUTE.replicas}


def statuses(*states: ReplicaStatus) -> dict[str, ReplicaState]:
    return {name: replica_state(name, status) for name, status in zip(ROUTE.replicas, states, strict=True)}


def attempt(outcome: Outcome, message: str = "boom", *, replica: str = "chat-a", param: str | None = None) -> Attempt:
    failure = Failure(kind=FailureKind.ENGINE, status=502, message=message, param=param)
    return Attempt(replica=replica, engine=EngineName.VLLM, outcome=outcome, failure=failure)


def test_ejected_replicas_are_last_the_soonest_to_return_first() -> None:
    long, short, fine, due = CircuitBreaker(), CircuitBreaker(), CircuitBreaker(), CircuitBreaker()
    due.failed(0, certain=True)
    long.failed(101, certain=True)
    short.failed(100, certain=True)

    order = sorted([long, short, fine, due], key=lambda breaker: breaker.ejected_until(100.5))

    assert order == [fine, due, short, long]


@pytest.mark.parametrize(
    ("loads", "shares", "order"),
    [
        ([0, 0, 0], [1, 1, 1], [0, 1, 2]),
        ([3, 1, 2], [1, 1, 1], [1, 2, 0]),
        ([4, 1, 1], [4, 1, 1], [0, 1, 2]),
        ([4, 3, 2], [4, 2, 0.5], [0, 1, 2]),
    ],
)
def test_least_loaded_for_its_share_is_first(loads: list[float], shares: list[float], order: list[int]) -> None:
    assert selection.by_load(loads, shares) == order


@pytest.mark.parametrize(
    ("ranked", "loads", "limits", "first"),
    [
        ([2, 0, 1], [0, 0, 2], [0, 0, 0], 2),
        ([2, 0, 1], [10, 10, 14], [0, 0, 0], 2),
        ([2, 0, 1], [10, 10, 25], [0, 0, 0], 0),
        ([2, 1, 0], [10, 10, 25], [0, 0, 0], 1),
        ([2, 1, 0], [2, 2, 2], [3, 3, 2], 1),
        ([2, 1, 0], [3, 4, 5], [3, 4, 5], 0),
    ],
)
def test_conversation_stays_unless_its_replica_is_much_busier(
    ranked: list[int], loads: list[float], limits: list[int], first: int
) -> None:
    order = selection.preferring(ranked, selection.by_load(loads, [1] * 3), loads, [1] * 3, limits)

    assert order[0] == first
    assert sorted(order) == [0, 1, 2]


def test_larger_share_may_carry_more() -> None:
    assert selection.preferring([0, 1], [1, 0], [12, 2], [4, 1], [0, 0]) == [0, 1]
    assert selection.preferring([0, 1], [1, 0], [12, 2], [1, 1], [0, 0]) == [1, 0]


@pytest.mark.parametrize(
    ("outcomes", "error", "code"),
    [
        ([Outcome.UNSUPPORTED, Outcome.UNSUPPORTED], InvalidRequestError, "unsupported_parameter"),
        ([Outcome.CONNECT, Outcome.CONNECT], NotReadyError, "model_not_ready"),
        ([Outcome.CONNECT, Outcome.UNSUPPORTED], NotReadyError, "model_not_ready"),
        ([Outcome.OVERLOADED, Outcome.UNSUPPORTED], OverloadedError, "overloaded"),
        ([Outcome.OVERLOADED, Outcome.CONNECT], UpstreamError, "engine_failed"),
        ([Outcome.OVERLOADED, Outcome.LOADING], OverloadedError, "overloaded"),
        ([Outcome.OVERLOADED, Outcome.CONFIG], OverloadedError, "overloaded"),
        ([Outcome.CONFIG, Outcome.UNSUPPORTED], UpstreamError, "engine_failed"),
        ([Outcome.CONFIG, Outcome.CONNECT], NotReadyError, "model_not_ready"),
        ([Outcome.LOADING, Outcome.ENGINE], UpstreamError, "engine_failed"),
        ([Outcome.ENGINE], UpstreamError, "engine_failed"),
        ([Outcome.TIMEOUT, Outcome.UNSUPPORTED], UpstreamError, "engine_failed"),
    ],
)
def test_final_error_has_all_causes_and_no_retry(outcomes: list[Outcome], error: type[ApiError], code: str) -> None:
    verdict = routing.final_error(ROUTE, [attempt(outcome, f"it was {outcome}", param="seed") for outcome in outcomes])

    assert type(verdict) is error
    assert verdict.code == code
    assert verdict.should_retry is False
    assert all(f"chat-a: it was {outcome}" in verdict.message for outcome in outcomes)


@pytest.mark.parametrize(
    ("others", "status"),
    [
        ((), 508),
        ((Outcome.UNSUPPORTED, Outcome.ENGINE), 508),
        ((Outcome.CONNECT,), 508),
        ((Outcome.OVERLOADED,), 429),
        ((Outcome.LOADING,), 503),
    ],
)
def test_a_circle_of_berths_is_the_answer_where_nothing_else_is_to_be_hoped_for(
    others: tuple[Outcome, ...], status: int
) -> None:
    circle = replace(attempt(Outcome.UNSUPPORTED), failure=failure_of(508, b"{}"))

    assert routing.final_error(ROUTE, [*map(attempt, others), circle]).status == status


def test_error_for_unsupported_request_names_the_field() -> None:
    assert routing.final_error(ROUTE, [attempt(Outcome.UNSUPPORTED, param="seed")]).param == "seed"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, None, InvalidRequestError),
        (422, "odd", InvalidRequestError),
        (400, "context_length_exceeded", ContextLengthError),
        (404, None, NotFoundError),
        (413, None, TooLargeError),
    ],
)
def test_final_failure_becomes_a_client_error(status: int, code: str | None, error: type[ApiError]) -> None:
    failure = Failure(kind=FailureKind.CLIENT, status=status, message="no", code=code, param="n")

    refusal = routing.rejection(failure)

    assert type(refusal) is error
    assert (refusal.message, refusal.param, refusal.code) == ("no", "n", code or error.code)


def test_request_check_error_survives_conversion_to_failure() -> None:
    error = InvalidRequestError("too many", param="top_logprobs", code="c")

    refusal = routing.rejection(routing.client_failure(error))

    assert (refusal.message, refusal.param, refusal.code) == ("too many", "top_logprobs", "c")


def state(status: ReplicaStatus, **fields: object) -> ReplicaState:
    return replica_state("chat-a", status, **fields)


@pytest.mark.parametrize(
    ("near", "words"),
    [
        (state(STARTING), "is starting on vllm."),
        (state(STARTING, progress=Progress(phase="load", percent=45.2)), "is starting on vllm: load 45 %."),
        (state(STARTING, progress=Progress(phase="compile")), "is starting on vllm: compile."),
        (state(ReplicaStatus.WAITING), "is queued to start on vllm."),
        (state(ReplicaStatus.WAITING, reason="the GPU is busy."), "to start on vllm (the GPU is busy)."),
        (state(ReplicaStatus.STANDBY), "is queued to start"),
        (state(ReplicaStatus.BACKOFF, reason="exit 1"), "will start again on vllm after a failure (exit 1)."),
        (state(ReplicaStatus.UNHEALTHY), "does not respond on vllm and is about to be restarted."),
        (state(ReplicaStatus.STOPPING), "is stopping on vllm."),
        (state(ReplicaStatus.ASLEEP), "is about to be woken on vllm."),
        (state(ReplicaStatus.WAKING, reason="took over"), "is waking up on vllm (took over)."),
    ],
)
def test_not_ready_error_has_the_status(near: ReplicaState, words: str) -> None:
    states = {**statuses(FAILED, FAILED, FAILED), "chat-a": near}

    error = routing.not_ready(ROUTE, REPLICAS, states, now=0)

    assert words in error.message
    assert error.message.startswith("Model 'chat' ")
    assert error.retry_after_s == 5


@pytest.mark.parametrize(
    ("near", "words", "should_retry"),
    [
        (state(STARTING, reason="not asked yet"), "is not ready yet at its attached server (not asked yet).", None),
        (state(ReplicaStatus.UNHEALTHY, reason="wrong key: x."), "at its attached server (wrong key: x).", False),
        (state(ReplicaStatus.UNHEALTHY, reason="no answer: x"), "at its attached server (no answer: x).", None),
    ],
)
def test_attached_server_is_not_said_to_be_restarted(near: ReplicaState, words: str, should_retry: bool | None) -> None:
    states = {name: replace(near, name=name) for name in ROUTE.replicas}
    error = routing.not_ready(ROUTE, ATTACHED, states, now=0)

    assert words in error.message
    assert (bool(error.retry_after_s), error.should_retry) == (True, should_retry)


def test_not_ready_error_describes_the_replica_closest_to_ready() -> None:
    states = statuses(ReplicaStatus.BACKOFF, STARTING, ReplicaStatus.STANDBY)

    assert "is starting" in routing.not_ready(ROUTE, REPLICAS, states, now=0).message


def test_back_off_sets_retry_after() -> None:
    states = {**statuses(FAILED, FAILED, FAILED), "chat-a": state(ReplicaStatus.BACKOFF, next_start_at=130.0)}

    assert routing.not_ready(ROUTE, REPLICAS, states, now=100).retry_after_s == 30


def test_memory_that_others_hold_is_named() -> None:
    held = state(ReplicaStatus.WAITING, memory_not_free="GPU 0: 9.0 GiB of 20.0 GiB are not free; on it: x")
    error = routing.not_ready(replace(ROUTE, replicas=("chat-a",)), REPLICAS, {"chat-a": held}, now=0)

    assert error.message.endswith("is not free. GPU 0: 9.0 GiB of 20.0 GiB are not free; on it: x.")
    assert (error.code, error.retry_after_s, error.should_retry) == ("memory_not_free", 30, False)


def test_leased_model_says_that_it_is_measured() -> None:
    leased = state(ReplicaStatus.STARTING, leased=True, requested="unloaded")
    error = routing.not_ready(replace(ROUTE, replicas=("chat-a",)), REPLICAS, {"chat-a": leased}, now=0)

    assert "is being measured by `berth bench`" in error.message
    assert (error.code, error.retry_after_s, error.should_retry) == ("model_leased", 60, False)


@pytest.mark.parametrize("status", [ReplicaStatus.STOPPING, ReplicaStatus.STOPPED])
def test_models_that_stop_with_berth_have_not_failed(status: ReplicaStatus) -> None:
    """Their clients may try again: Berth is back soon, or another one behind the same address is."""
    states = {**statuses(FAILED, FAILED, FAILED), "chat-a": state(status, reason=BERTH_STOPS)}

    error = routing.not_ready(ROUTE, REPLICAS, states, now=0)

    assert (error.message, error.code) == ("Berth is shutting down.", NotReadyError.code)
    assert (error.retry_after_s, error.should_retry) == (5, None)


def test_error_of_failed_model_has_reason_but_no_retry_after() -> None:
    states = {
        **statuses(FAILED, FAILED, ReplicaStatus.STOPPED),
        "chat-a": state(FAILED, reason="out of memory."),
    }

    error = routing.not_ready(ROUTE, REPLICAS, states, now=0)

    assert "chat-a failed (out of memory); chat-b failed; chat-c stopped" in error.message
    assert (error.code, error.retry_after_s, error.should_retry) == ("model_failed", None, False)


@pytest.mark.parametrize(
    ("near", "code", "words", "retry_after_s"),
    [
        (state(ReplicaStatus.UNLOADED, requested="loaded"), "model_loading", "is being loaded.", 5),
        (
            state(ReplicaStatus.UNLOADED, requested="loaded", no_room="GPU 0: held by coder", expected_s=40),
            "model_loading",
            "waits for room on GPU 0: held by coder; a load takes about 40 s.",
            40,
        ),
        (
            state(STARTING, requested="loaded", expected_s=40, progress=Progress(phase="compile")),
            "model_loading",
            "is being loaded: compile; about 30 s are left.",
            30,
        ),
        (state(STARTING, requested="loaded", expected_s=2), "model_loading", "is being loaded.", 5),
        (
            state(ReplicaStatus.WAKING, expected_s=13),
            "model_loading",
            "is being loaded; about 3 s are left.",
            5,
        ),
        (
            state(ReplicaStatus.UNLOADED, requested="unloaded", no_room="GPU 0: held by a, pinned", obstructed=True),
            "no_room",
            "has no room on GPU 0: held by a, pinned: its operator makes room with `berth unpin`.",
            None,
        ),
        (state(STARTING, expected_s=40), "model_loading", "is being loaded; about 30 s are left.", 30),
        (state(ReplicaStatus.WAITING), "model_loading", "is being loaded.", 5),
    ],
)
def test_error_of_a_model_that_is_loaded_on_request(
    near: ReplicaState, code: str, words: str, retry_after_s: float | None
) -> None:
    route = replace(ROUTE, load=Load.ON_REQUEST, replicas=("chat-a",))
    error = routing.not_ready(route, REPLICAS, {"chat-a": near}, now=11)
    assert (error.code, error.retry_after_s) == (code, retry_after_s)
    assert error.message == f"Model 'chat' {words}"


@pytest.mark.parametrize(
    ("near", "details"),
    [
        (
            state(ReplicaStatus.UNLOADED, requested="unloaded", no_room="GPU 0", holders=("a", "b"), obstructed=True),
            {"code": "no_room", "status": "unloaded", "holders": ("a", "b")},
        ),
        (
            state(STARTING, requested="loaded", expected_s=40, progress=Progress(phase="weights", percent=43)),
            {"code": "model_loading", "status": "starting", "phase": "weights", "percent": 43, "eta_s": 30},
        ),
        (state(FAILED), {"code": "model_failed", "status": "failed"}),
        (state(ReplicaStatus.WAITING, memory_not_free="GPU 0: x"), {"code": "memory_not_free", "status": "waiting"}),
        (
            state(ReplicaStatus.ASLEEP, requested="asleep", expected_s=3),
            {"code": "model_loading", "status": "asleep", "eta_s": 3},
        ),
        (state(ReplicaStatus.STARTING, leased=True), {"code": "model_leased", "status": "starting"}),
    ],
)
def test_details_of_models_that_do_not_serve_are_for_programs(near: ReplicaState, details: dict[str, Any]) -> None:
    route = replace(ROUTE, load=Load.ON_REQUEST, replicas=("chat-a",))
    error = routing.not_ready(route, REPLICAS, {"chat-a": near}, now=11)
    assert error.extension == {"berth": {**details, "model": "chat"}}
    full = routing.loading_queue_full("chat", 256, error).extension["berth"]
    assert full == {**details, "model": "chat", "code": "queue_full", "queued": 256}


def test_broken_stream_error_names_replica_and_reason() -> None:
    error = routing.broken_stream(attempt(Outcome.CUT, "killed"))

    assert error.message == "The response is incomplete. chat-a: killed"


@pytest.mark.parametrize(
    ("status", "retry_after_s", "outcome"),
    [(503, 5.0, Outcome.LOADING), (503, 0.0, Outcome.ENGINE), (500, 5.0, Outcome.ENGINE), (200, 0.0, Outcome.ENGINE)],
)
def test_server_that_expects_to_serve_soon_is_loading(status: int, retry_after_s: float, outcome: Outcome) -> None:
    failure = Failure(kind=FailureKind.ENGINE, status=502, message="<h1>503 Service Temporarily Unavailable</h1>")

    assert routing.outcome_of(failure, status, retry_after_s) is outcome


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_of_failure_is_an_outcome(kind: FailureKind) -> None:
    assert routing.outcome_of(Failure(kind=kind, status=502, message="")).value == kind


def test_loading_server_is_waited_for_as_long_as_it_says() -> None:
    loading = [replace(attempt(Outcome.LOADING), retry_after_s=seconds) for seconds in (30.0, 7.0)]

    for attempts in (loading, [*loading, attempt(Outcome.CONNECT)], [attempt(Outcome.CONFIG), *loading]):
        error = routing.final_error(ROUTE, attempts)
        assert (type(error), error.retry_after_s, error.should_retry) == (NotReadyError, 7.0, None)


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 0), (b"7", 7), (b"9999", 300), (b"Fri, 31 Dec 1999 23:59:59 GMT", 0), (b"-1", 0)]
)
def test_reads_retry_after(header: bytes | None, seconds: float) -> None:
    assert routing.retry_after_s(header) == seconds


def test_overload_error_has_the_soonest_retry_after() -> None:
    attempts = [replace(attempt(Outcome.OVERLOADED), retry_after_s=seconds) for seconds in (9.0, 4.0)]

    assert routing.final_error(ROUTE, attempts).retry_after_s == 4
