"""The gates reject what is worse, and let what is as good pass, however often they are looked at."""

import random
from dataclasses import replace

import pytest

from berth.control.decisions.gates import FEWEST_LENGTHS, REJECTS, failed, gates, ratio
from berth.ipc.migration import Counts

GOOD = Counts(attempts=500, timed=500, answers=500, tokens=50_000, tokens_squared=50_000 * 120)


def own(**counts: int) -> Counts:
    return replace(GOOD, **counts)


@pytest.mark.parametrize(
    ("bad", "count", "rejected"),
    [(1, 1, False), (2, 50, True), (2, 120, False), (3, 200, True), (5, 500, True), (4, 500, False), (0, 156, False)],
)
def test_failures_reject_as_the_table_says(bad: int, count: int, rejected: bool) -> None:
    assert (ratio(bad, count, 0.001, 0.02) >= REJECTS) == rejected


@pytest.mark.parametrize(
    ("counts", "gate"),
    [
        ({}, ""),
        ({"attempts": 50, "failures": 2}, "failures: 2 of 50; the stable replica: 0 of 500"),
        ({"empty": 6}, "empty answers: 6 of 500"),
        ({"slow": 80}, "slow answers: 80 of 500"),
        ({"slow": 25}, ""),
        ({"unfit": 1}, "formats: 1 without the requested format; the stable replica: 0"),
        ({"tokens": 25_000, "tokens_squared": 25_000 * 60}, "lengths: 0.50 times"),
        ({"tokens": 100_000, "tokens_squared": 100_000 * 240}, "lengths: 2.00 times"),
        ({"tokens": 48_000}, ""),
        ({"answers": FEWEST_LENGTHS - 1, "tokens": 1}, ""),
    ],
)
def test_a_worse_candidate_is_rejected_with_its_numbers(counts: dict[str, int], gate: str) -> None:
    found = failed(own(**counts), GOOD)
    assert found.startswith(gate) if gate else found == ""


def test_what_the_stable_replica_does_as_well_is_no_reason() -> None:
    assert failed(own(failures=50), own(failures=50)) == ""
    assert failed(own(slow=300), own(slow=300)) == ""
    assert failed(own(slow=500), own(slow=500)) == ""
    assert failed(own(unfit=3), own(unfit=1)) == ""
    assert failed(own(failures=500), own(failures=500)) == ""


def test_nothing_is_decided_without_requests() -> None:
    assert failed(Counts(), Counts()) == ""
    assert len(list(gates(Counts(), Counts()))) == 5


def rejections(share: float, canaries: int, requests: int, seed: int) -> tuple[int, list[int]]:
    """How many of so many canaries are rejected when they are looked at after each request, and when."""
    drawn, when = random.Random(seed), []
    for _ in range(canaries):
        bad = 0
        for count in range(1, requests + 1):
            bad += drawn.random() < share
            if ratio(bad, count, 0.001, 0.02) >= REJECTS:
                when.append(count)
                break
    return len(when), when


def test_a_good_candidate_is_rejected_in_one_of_a_hundred_at_most() -> None:
    assert rejections(0.001, canaries=1000, requests=400, seed=1)[0] <= 12


def test_a_bad_candidate_is_found_soon() -> None:
    found, when = rejections(0.02, canaries=300, requests=600, seed=2)
    assert found >= 0.94 * 300
    assert sorted(when)[len(when) // 2] <= 120
