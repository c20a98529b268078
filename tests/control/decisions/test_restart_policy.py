"""Back-off after failures, and leases on devices."""

from dataclasses import replace

import pytest

from berth.control.decisions.restart_policy import (
    CPU,
    History,
    after_failure,
    after_ready,
    backoff_s,
    devices,
    flapping,
    grant_leases,
)
from berth.plan import Replica, Restarts
from tests.fakes.plans import make_replica

RESTARTS = Restarts(backoff_first_s=1, backoff_longest_s=300, failures=12, window_s=900)


def failed_at(*times: float, restarts: Restarts = RESTARTS) -> History:
    history = History()
    for now in times:
        history = after_failure(history, now, restarts)
    return history


@pytest.mark.parametrize(
    ("failures", "expected"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (11, 300), (12, None), (40, None)]
)
def test_backoff_doubles_up_to_a_limit_and_ends(failures: int, expected: float | None) -> None:
    history = failed_at(*range(failures))
    assert backoff_s(history, RESTARTS, limit=RESTARTS.failures) == expected


def test_lower_limit_ends_it_sooner() -> None:
    assert backoff_s(failed_at(1), RESTARTS, limit=1) is None
    assert backoff_s(failed_at(1), RESTARTS, limit=2) == 1


def test_readiness_drops_failures_outside_the_window() -> None:
    history = after_failure(after_ready(failed_at(0, 10)), 905, RESTARTS)
    assert history == History(failures=(10, 905), in_a_row=1)
    assert backoff_s(history, RESTARTS, limit=12) == 2


def test_consecutive_failures_count_regardless_of_age() -> None:
    slow = [1800.0 * number for number in range(12)]
    assert backoff_s(failed_at(*slow), RESTARTS, limit=12) is None


def test_flapping_replica_is_restarted_more_slowly_up_to_a_limit() -> None:
    history, delays, counts = History(), [], []
    for now in range(0, 6000, 600):  # too seldom for a permanent failure
        history = after_failure(after_ready(history), now, RESTARTS, served=True)
        delays.append(backoff_s(history, RESTARTS, limit=5))
        counts.append(flapping(history, now))

    assert delays == [1, 2, 4, 8, 15, 15, 15, 15, 15, 15]
    assert counts == [0, 0, 3, 4, 5, 6, 6, 6, 6, 6]
    assert flapping(history, 5400 + 1799) == 4
    assert flapping(history, 5400 + 2400) == 0


def test_failed_starts_are_no_flaps() -> None:
    history = failed_at(0, 10, 20)
    assert (history.flaps, flapping(history, 20)) == ((), 0)


def test_backoff_does_not_overflow() -> None:
    endless = Restarts(failures=10**6)
    assert backoff_s(History(in_a_row=5000), endless, limit=10**6) == 300


def on(name: str, *gpus: int) -> Replica:
    return replace(make_replica(name, launch=None), gpus=gpus)


def test_replicas_without_a_gpu_share_the_cpu() -> None:
    assert devices(on("a")) == {CPU}
    assert devices(on("a", 0, 3)) == {0, 3}


@pytest.mark.parametrize(
    ("waiting", "holding", "granted"),
    [
        ([on("a", 0), on("b", 0)], [], ("a",)),
        ([on("a", 0), on("b", 1)], [], ("a", "b")),
        ([on("a"), on("b")], [], ("a",)),
        ([on("a"), on("b", 0)], [], ("a", "b")),
        ([on("a", 0)], [on("x", 0)], ()),
        ([on("wide", 0, 1), on("b", 1)], [on("x", 0)], ()),
        ([on("wide", 0, 1), on("b", 2)], [on("x", 0)], ("b",)),
        ([], [on("x", 0)], ()),
    ],
    ids=["same GPU", "two GPUs", "CPU", "CPU and GPU", "held", "not overtaken", "free", "none waiting"],
)
def test_grants_leases_in_order(waiting: list[Replica], holding: list[Replica], granted: tuple[str, ...]) -> None:
    assert grant_leases(waiting, holding) == granted
