import math

import pytest

from etc.tools.rivals.figures import Spread, median, median_ratio, percentile, ratio


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)]
)
def test_a_percentile_is_the_smallest_value_that_this_share_does_not_exceed(share: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == expected


def test_the_median_leaves_out_what_is_no_number() -> None:
    assert median([3.0, math.nan, 1.0]) == 2.0
    assert median([3.0, 9.0, 1.0]) == 3.0
    assert math.isnan(median([math.nan]))


def test_a_ratio_to_nothing_is_no_number() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert math.isnan(ratio(3.0, 0.0))


def test_the_ratio_of_several_rounds_is_the_median_of_theirs() -> None:
    assert median_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 1.0]) == 3.0  # 2, 3, 8: a slow round does not count more


def test_a_spread_is_in_milliseconds() -> None:
    assert Spread.of([0.003, 0.001, 0.002]) == Spread(p50=2.0, p99=3.0, most=3.0)


def test_there_is_no_spread_of_nothing() -> None:
    assert Spread.of([]) is None
