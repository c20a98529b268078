"""Comparisons whose truth is known, in virtual time: how often they say it."""

import random

import pytest

from berth.bench.ratios import Interval, interval, noise, outcome, windows_needed
from berth.records.results import Outcome
from etc.tools.bench_truth.outcomes import tally

TRIALS, DRAWS = 30, 300  # `make bench-truth` has 100, with all draws


def test_engine_is_a_tie_with_itself() -> None:
    found = tally(1.0, TRIALS, DRAWS)
    assert found.outcomes[Outcome.TIE] >= 0.95 * TRIALS, found


def test_ten_percent_are_found_and_covered() -> None:
    found = tally(1.1, TRIALS, DRAWS)
    assert found.outcomes[Outcome.SLOWER] >= 0.95 * TRIALS, found
    assert found.covered >= 0.9 * TRIALS, found


def test_interval_is_that_of_the_ratios() -> None:
    found = interval([[1.1, 1.1], [1.1, 1.1]])
    assert found is not None
    assert (found.ratio, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))
    assert interval([[1.1], []]) is None
    source = random.Random(3)
    wide, narrow = (interval([[source.gauss(1, spread) for _ in range(5)]] * 2) for spread in (0.2, 0.01))
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def between(low: float, high: float) -> Interval:
    return Interval(ratio=(low * high) ** 0.5, low=low, high=high, windows=10)


@pytest.mark.parametrize(
    ("low", "high", "floor", "more", "less"),
    [
        (1.05, 1.10, 0.0, Outcome.FASTER, Outcome.SLOWER),
        (0.90, 0.95, 0.0, Outcome.SLOWER, Outcome.FASTER),
        (0.99, 1.01, 0.0, Outcome.TIE, Outcome.TIE),
        (0.99, 1.05, 0.0, Outcome.UNDECIDED, Outcome.UNDECIDED),
        (1.05, 1.10, 0.2, Outcome.UNDECIDED, Outcome.UNDECIDED),
        (0.99, 1.01, 0.2, Outcome.TIE, Outcome.TIE),
        (1.01, 1.02, 0.0, Outcome.TIE, Outcome.TIE),
    ],
)
def test_outcome_obeys_the_margin(low: float, high: float, floor: float, more: Outcome, less: Outcome) -> None:
    found = between(low, high)
    assert outcome(found, floor, more_is_better=True) is more
    assert outcome(found, floor, more_is_better=False) is less


def test_nothing_measured_is_undecided_and_the_rest_says_how_much_is_missing() -> None:
    assert outcome(None, 0.0, more_is_better=True) is Outcome.UNDECIDED
    assert noise(None) == 0
    assert noise(between(0.98, 1.01)) == pytest.approx(0.02)
    assert windows_needed(between(1.02, 1.10), 0.0) in range(1, 40)
    assert windows_needed(between(0.93, 1.14), 0.0) == 999
