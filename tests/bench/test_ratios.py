"""Comparisons whose truth is known, in virtual time: how often they say it."""

import math
import random
from functools import cache

import pytest

from berth.bench.ratios import Interval, interval, noise, outcome, windows_needed
from berth.records.results import Outcome
from etc.tools.bench_truth.outcomes import Engines, Pool, Tally, tallies

TRIALS = 200
MANY = 400  # of which one percent is more than chance
DECIDED = ("goodput", "tokens/s at 4 at a time", "tpot p50 at 4 at a time")  # first tokens vary too much for 3 %

pool = cache(lambda: Pool(8))


def found(engines: Engines, trials: int = TRIALS) -> dict[str, Tally]:
    return {one.metric: one for one in tallies(engines, pool().trials(engines, trials))}


def test_engine_whose_steps_vary_is_a_tie_with_itself() -> None:
    shown = found(Engines())
    assert [name for name in DECIDED if shown[name].outcomes[Outcome.TIE] < 0.95 * TRIALS] == []


def test_ten_percent_are_found() -> None:
    shown = found(Engines(slower=1.1))
    assert [name for name in DECIDED if shown[name].outcomes[Outcome.SLOWER] < 0.95 * TRIALS] == []


def test_three_percent_are_left_open_or_called_slower_but_hardly_ever_a_tie() -> None:
    shown = found(Engines(slower=1.03))
    assert [name for name, one in shown.items() if one.outcomes[Outcome.TIE] > 0.05 * TRIALS] == []
    assert [name for name, one in shown.items() if one.outcomes[Outcome.FASTER]] == []


@pytest.mark.parametrize("slower", [1.0, 1.1])
@pytest.mark.parametrize("starts", [0.0, 0.02])
def test_intervals_hold_the_truth_however_far_starts_differ(slower: float, starts: float) -> None:
    """With starts that differ, windows of one start agree with each other far better than with those of another."""
    shown = found(Engines(slower=slower, starts=starts), MANY)
    assert {name: one.covered for name, one in shown.items() if one.covered < 0.93 * MANY} == {}
    wrong = (Outcome.FASTER, Outcome.TIE if slower > 1 else Outcome.SLOWER)
    assert [name for name, one in shown.items() if sum(one.outcomes[kind] for kind in wrong) > 0.02 * MANY] == []


def test_interval_is_that_of_the_starts() -> None:
    shown = interval([[1.0, 2.0], [1.0, 2.0]], [[1.1, 2.2], [1.1, 2.2]])
    assert shown is not None
    assert (shown.ratio, shown.low, shown.high) == pytest.approx((1.1, 1.1, 1.1))
    assert shown.windows == 4
    apart = interval([[1.0, 1.0], [1.02, 1.02]], [[1.0, 1.0], [1.02, 1.02]])
    assert apart is not None
    half = 4.303 * math.log(1.02) / math.sqrt(2)  # Student's 97.5 % of 2
    assert (math.log(apart.low), math.log(apart.high)) == pytest.approx((-half, half), rel=1e-3)


def test_one_start_has_the_interval_of_its_windows() -> None:
    source = random.Random(3)
    narrow, wide = (
        interval([[1.0] * 5], [[source.lognormvariate(0, spread) for _ in range(5)]]) for spread in (0.01, 0.2)
    )
    assert narrow is not None
    assert wide is not None
    assert wide.high / wide.low > 1.2 * narrow.high / narrow.low > 1


def test_window_counts_where_it_is_valid_in_every_start() -> None:
    shown = interval([[1.0, 1.0, None], [1.0, 1.0, 1.0]], [[2.0, 1.0, 1.0], [2.0, 1.0]])
    assert shown is not None
    assert shown.windows == 4
    assert shown.ratio == pytest.approx(math.sqrt(2))
    assert interval([[1.0, None]], [[1.0, 1.0]]) is None
    assert interval([[None], [1.0]], [[1.0], [1.0]]) is None


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
