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


def test_it_opens_after_three_failures_in_a_row() -> None:
    breaker = CircuitBreaker()

    circuits = []
    for now in (1.0, 2.0, 3.0):
        breaker.failed(now)
        circuits.append(breaker.circuit(now))

    assert circuits == [Circuit.CLOSED, Circuit.CLOSED, Circuit.OPEN]


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = CircuitBreaker()
    for now in range(8):
        breaker.failed(float(now)) if now % 3 else breaker.succeeded(float(now))

    assert breaker.circuit(8) is Circuit.CLOSED


def test_it_opens_when_half_of_many_fail() -> None:
    breaker = CircuitBreaker()
    for now in range(10):
        assert breaker.circuit(now) is Circuit.CLOSED
        breaker.failed(now) if now % 2 else breaker.succeeded(now)

    assert breaker.circuit(9.5) is Circuit.OPEN


def test_what_is_long_ago_does_not_count() -> None:
    breaker = CircuitBreaker()
    for now in itertools.islice(itertools.count(0, 4), 20):
        breaker.failed(now) if now % 8 else breaker.succeeded(now)

    assert breaker.circuit(80) is Circuit.CLOSED


def test_one_refused_connection_is_enough() -> None:
    assert opened().circuit(0.5) is Circuit.OPEN


def test_after_the_pause_one_request_may_try() -> None:
    breaker = opened()
    assert breaker.circuit(1.0) is Circuit.HALF_OPEN

    breaker.begin(1.0)

    assert breaker.circuit(1.0) is Circuit.OPEN


def test_a_trial_that_succeeds_closes_it() -> None:
    breaker = opened()
    breaker.begin(1.0)
    breaker.succeeded(1.2)

    assert breaker.circuit(1.2) is Circuit.CLOSED


def test_a_trial_that_fails_opens_it_for_twice_as_long_up_to_a_limit() -> None:
    breaker, pauses, now = opened(), [], 0.0
    for _ in range(8):
        pauses.append(breaker.opened_until - now)
        now = breaker.opened_until
        breaker.begin(now)
        breaker.failed(now)

    assert pauses == [1, 2, 4, 8, 16, PAUSE_LONGEST_S, PAUSE_LONGEST_S, PAUSE_LONGEST_S]


def test_a_trial_that_tells_nothing_leaves_room_for_the_next() -> None:
    breaker = opened()
    breaker.begin(1.0)
    breaker.withdrawn()

    assert breaker.circuit(1.0) is Circuit.HALF_OPEN


def test_late_failures_do_not_make_the_pause_longer() -> None:
    breaker = opened()
    breaker.failed(0.5)
    breaker.failed(0.6)

    assert breaker.opened_until == 1.0


def test_a_request_before_the_pause_is_over_is_no_trial() -> None:
    breaker = opened()
    breaker.begin(0.5)

    assert breaker.circuit(1.0) is Circuit.HALF_OPEN


def test_the_pause_is_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 0.2)
    ends = {opened().opened_until for _ in range(20)}

    assert len(ends) > 1
    assert all(0.8 <= end <= 1.2 for end in ends)


def test_an_engine_that_says_nothing_but_that_it_is_full_is_left_alone_too() -> None:
    breaker = CircuitBreaker()
    circuits = set()
    for _ in range(REJECTIONS - 1):
        breaker.rejected(0.0)
        circuits.add((breaker.circuit(0.0), breaker.rejects(0.0)))
    breaker.rejected(0.0)

    assert circuits == {(Circuit.CLOSED, False)}
    assert (breaker.circuit(0.5), breaker.overloaded, breaker.rejects(0.5)) == (Circuit.OPEN, True, True)
    assert breaker.circuit(1.0) is Circuit.HALF_OPEN


def test_one_that_serves_some_requests_may_refuse_the_others() -> None:
    breaker = CircuitBreaker()
    for _ in range(20):
        for _ in range(REJECTIONS - 1):
            breaker.rejected(0.0)
        breaker.succeeded(0.0)

    assert breaker.circuit(0.0) is Circuit.CLOSED


def test_refusals_are_no_failures() -> None:
    breaker = CircuitBreaker()
    for now in range(8):
        breaker.failed(float(now)) if now % 4 == 0 else breaker.rejected(float(now))

    assert breaker.circuit(8) is Circuit.CLOSED


def test_any_answer_of_a_full_engine_ends_its_pause() -> None:
    breaker = refusing()
    breaker.succeeded(0.2)

    assert (breaker.circuit(0.2), breaker.overloaded) == (Circuit.CLOSED, False)


def test_a_full_engine_that_refuses_again_is_left_alone_for_longer_up_to_a_limit() -> None:
    breaker, pauses, now = refusing(), [], 0.0
    for _ in range(5):
        pauses.append(breaker.opened_until - now)
        now = breaker.opened_until
        breaker.begin(now)
        breaker.rejected(now)

    assert pauses == [1, 2, PAUSE_OVERLOADED_S, PAUSE_OVERLOADED_S, PAUSE_OVERLOADED_S]


@pytest.mark.parametrize(("asked", "kept"), [(0.5, 1.0), (7.0, 7.0), (3600.0, PAUSE_LONGEST_S)])
def test_a_full_engine_is_asked_again_when_it_wants_to_be(asked: float, kept: float) -> None:
    assert refusing(retry_after_s=asked).opened_until == kept


def test_the_pause_that_an_engine_wants_is_not_cut_short_by_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 0.2)

    assert min(refusing(retry_after_s=7.0).opened_until for _ in range(20)) >= 7.0


def test_a_trial_that_a_full_engine_does_not_refuse_keeps_others_out_for_a_moment_only() -> None:
    breaker = refusing()
    breaker.begin(1.0)

    assert breaker.circuit(1.0) is Circuit.OPEN
    assert breaker.circuit(1.0 + REJECTED_WITHIN_S) is Circuit.HALF_OPEN


def test_a_failing_engine_that_is_full_later_is_not_asked_in_vain_and_the_other_way_round() -> None:
    breaker = opened()
    breaker.begin(1.0)
    breaker.rejected(1.0)
    assert breaker.overloaded

    breaker.begin(breaker.opened_until)
    breaker.failed(breaker.opened_until)
    assert not breaker.overloaded


def test_the_budget_allows_a_share_of_the_requests_and_a_few_more() -> None:
    budget = RetryBudget()
    burst = sum(budget.withdraw() for _ in range(1000))
    for _ in range(50):
        budget.deposit()

    assert burst == RetryBudget.MOST
    assert sum(budget.withdraw() for _ in range(100)) == pytest.approx(50 * RetryBudget.SHARE, abs=1)
