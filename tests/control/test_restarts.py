"""The brake on crash loops."""

import pytest

from berth.control.restart_policy import History, after_failure, after_ready, delay_s
from berth.plan import Restarts

BRAKE = Restarts(backoff_first_s=1, backoff_longest_s=300, failures=12, window_s=900)


def failed_at(*times: float, restarts: Restarts = BRAKE) -> History:
    history = History()
    for now in times:
        history = after_failure(history, now, restarts)
    return history


@pytest.mark.parametrize(
    ("failures", "expected"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (11, 300), (12, None), (40, None)]
)
def test_the_pause_doubles_up_to_the_longest_and_ends_for_good(failures: int, expected: float | None) -> None:
    history = failed_at(*range(failures))
    assert delay_s(history, BRAKE, limit=BRAKE.failures) == expected


def test_a_smaller_limit_ends_it_sooner() -> None:
    assert delay_s(failed_at(1), BRAKE, limit=1) is None
    assert delay_s(failed_at(1), BRAKE, limit=2) == 1


def test_failures_out_of_the_window_are_forgotten_by_a_replica_that_was_ready() -> None:
    history = after_failure(after_ready(failed_at(0, 10)), 905, BRAKE)
    assert history == History(failures=(10, 905), in_a_row=1)
    assert delay_s(history, BRAKE, limit=12) == 2


def test_slow_failures_without_success_count_however_old() -> None:
    slow = [1800.0 * number for number in range(12)]
    assert delay_s(failed_at(*slow), BRAKE, limit=12) is None


def test_a_pause_that_would_overflow_is_the_longest() -> None:
    endless = Restarts(failures=10**6)
    assert delay_s(History(in_a_row=5000), endless, limit=10**6) == 300
