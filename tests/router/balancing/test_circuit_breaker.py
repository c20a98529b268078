import itertools

import pytest

from berth.router.balancing import circuit_breaker as module
from berth.router.balancing.circuit_breaker import (
    PAUSE_LONGEST_S,
    PAUSE_OVERLOADED_S,
    REJECTED_WITHIN_S,
    REJECTIONS,
    Circuit,
    CircuitBreaker,
    RetryBudget,
)


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 0.0)


def opened(*, at: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    breaker.failed(at, certain=True)
    return breaker


def refusing(*, at: float = 0.0, retry_after_s: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(REJECTIONS):
        breaker.rejected(at, retry_after_s)
    return breaker


def test_opens_after_three_consecutive_failures() -> None:
    breaker = CircuitBreaker()

    circuits = []
    for now in (1.0, 2.0, 3.0):
        breaker.failed(now)
        circuits.append(breaker.circuit(now))

    assert circuits == [Circuit.CLOSED, Circuit.CLOSED, Circuit.OPEN]


def test_success_resets_the_failure_count() -> None:
    breaker = CircuitBreaker()
    for now in range(8):
        breaker.failed(float(now)) if now % 3 else breaker.succeeded(float(now))

    assert breaker.circuit(8) is Circuit.CLOSED


def test_opens_when_half_of_the_window_failed() -> None:
    breaker = CircuitBreaker()
    for now in range(10):
        assert breaker.circuit(now) is Circuit.CLOSED
        breaker.failed(now) if now % 2 else breaker.succeeded(now)

    assert breaker.circuit(9.5) is Circuit.OPEN


def test_failures_outside_the_window_do_not_count() -> None:
    breaker = CircuitBreaker()
    for now in itertools.islice(itertools.count(0, 4), 20):
        breaker.failed(now) if now % 8 else breaker.succeeded(now)

    assert breaker.circuit(80) is Circuit.CLOSED


def test_opens_after_one_refused_connection() -> None:
    assert opened().circuit(0.5) is Circuit.OPEN


def test_half_open_allows_one_probe() -> None:
    breaker = opened()
    assert breaker.circuit(1.0) is Circuit.HALF_OPEN

    breaker.begin(1.0)

    assert breaker.circuit(1.0) is Circuit.OPEN


def test_successful_probe_closes_it() -> None:
    breaker = opened()
    breaker.begin(1.0)
    breaker.succeeded(1.2)

    assert breaker.circuit(1.2) is Circuit.CLOSED


def test_failed_probe_doubles_the_pause_up_to_a_limit() -> None:
    breaker, pauses, now = opened(), [], 0.0
    for _ in range(8):
        pauses.append(breaker.opened_until - now)
        now = breaker.opened_until
        breaker.begin(now)
        breaker.failed(now)

    assert pauses == [1, 2, 4, 8, 16, PAUSE_LONGEST_S, PAUSE_LONGEST_S, PAUSE_LONGEST_S]


def test_withdrawn_probe_allows_the_next_one() -> None:
    breaker = opened()
    breaker.begin(1.0)
    breaker.withdrawn()

    assert breaker.circuit(1.0) is Circuit.HALF_OPEN


def test_failures_of_earlier_requests_do_not_extend_the_pause() -> None:
    breaker = opened()
    breaker.failed(0.5)
    breaker.failed(0.6)

    assert breaker.opened_until == 1.0


def test_request_before_the_end_of_the_pause_is_not_a_probe() -> None:
    breaker = opened()
    breaker.begin(0.5)

    assert breaker.circuit(1.0) is Circuit.HALF_OPEN


def test_the_pause_is_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 0.2)
    ends = {opened().opened_until for _ in range(20)}

    assert len(ends) > 1
    assert all(0.8 <= end <= 1.2 for end in ends)


def test_opens_after_consecutive_overload_rejections() -> None:
    breaker = CircuitBreaker()
    circuits = set()
    for _ in range(REJECTIONS - 1):
        breaker.rejected(0.0)
        circuits.add((breaker.circuit(0.0), breaker.rejects(0.0)))
    breaker.rejected(0.0)

    assert circuits == {(Circuit.CLOSED, False)}
    assert (breaker.circuit(0.5), breaker.overloaded, breaker.rejects(0.5)) == (Circuit.OPEN, True, True)
    assert breaker.circuit(1.0) is Circuit.HALF_OPEN


def test_stays_closed_when_some_requests_are_served() -> None:
    breaker = CircuitBreaker()
    for _ in range(20):
        for _ in range(REJECTIONS - 1):
            breaker.rejected(0.0)
        breaker.succeeded(0.0)

    assert breaker.circuit(0.0) is Circuit.CLOSED


def test_overload_rejections_are_not_failures() -> None:
    breaker = CircuitBreaker()
    for now in range(8):
        breaker.failed(float(now)) if now % 4 == 0 else breaker.rejected(float(now))

    assert breaker.circuit(8) is Circuit.CLOSED


def test_any_served_response_ends_the_overload_pause() -> None:
    breaker = refusing()
    breaker.succeeded(0.2)

    assert (breaker.circuit(0.2), breaker.overloaded) == (Circuit.CLOSED, False)


def test_rejected_probe_doubles_the_overload_pause_up_to_a_limit() -> None:
    breaker, pauses, now = refusing(), [], 0.0
    for _ in range(5):
        pauses.append(breaker.opened_until - now)
        now = breaker.opened_until
        breaker.begin(now)
        breaker.rejected(now)

    assert pauses == [1, 2, PAUSE_OVERLOADED_S, PAUSE_OVERLOADED_S, PAUSE_OVERLOADED_S]


@pytest.mark.parametrize(("asked", "kept"), [(0.5, 1.0), (7.0, 7.0), (3600.0, PAUSE_LONGEST_S)])
def test_overload_pause_follows_retry_after(asked: float, kept: float) -> None:
    assert refusing(retry_after_s=asked).opened_until == kept


def test_jitter_never_shortens_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 0.2)

    assert min(refusing(retry_after_s=7.0).opened_until for _ in range(20)) >= 7.0


def test_accepted_probe_of_overloaded_engine_blocks_others_briefly() -> None:
    breaker = refusing()
    breaker.begin(1.0)

    assert breaker.circuit(1.0) is Circuit.OPEN
    assert breaker.circuit(1.0 + REJECTED_WITHIN_S) is Circuit.HALF_OPEN


def test_failure_and_overload_can_follow_each_other() -> None:
    breaker = opened()
    breaker.begin(1.0)
    breaker.rejected(1.0)
    assert breaker.overloaded

    breaker.begin(breaker.opened_until)
    breaker.failed(breaker.opened_until)
    assert not breaker.overloaded


def test_retry_budget_allows_a_share_of_the_requests() -> None:
    budget = RetryBudget()
    burst = sum(budget.withdraw() for _ in range(1000))
    for _ in range(50):
        budget.deposit()

    assert burst == RetryBudget.MOST
    assert sum(budget.withdraw() for _ in range(100)) == pytest.approx(50 * RetryBudget.SHARE, abs=1)
