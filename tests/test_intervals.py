"""Intervals: against published figures, and by what they promise."""

import random

import pytest

from berth.intervals import mean_interval, share_interval


@pytest.mark.parametrize(
    ("count", "of", "confidence", "expected"),
    [  # of tables of Clopper and Pearson's interval
        (0, 10, 0.95, (0.0, 0.3085)),
        (10, 10, 0.95, (0.6915, 1.0)),
        (5, 10, 0.95, (0.1871, 0.8129)),
        (1, 20, 0.95, (0.0013, 0.2487)),
        (3, 15, 0.99, (0.0239, 0.5605)),
    ],
)
def test_the_interval_of_a_share(count: int, of: int, confidence: float, expected: tuple[float, float]) -> None:
    assert share_interval(count, of, confidence) == pytest.approx(expected, abs=6e-4)


def test_the_interval_of_a_mean_is_students() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = mean_interval(5, sum(values), sum(value * value for value in values), 0.95)
    assert found == pytest.approx((3.0, 1.0368, 4.9632), abs=1e-4)
    assert mean_interval(1, 1.0, 1.0) is None
    assert mean_interval(2, 2.0, 2.0) == (1.0, 1.0, 1.0)


def test_the_interval_of_a_share_covers_it_as_often_as_it_says() -> None:
    source, misses = random.Random(7), 0
    for _ in range(300):
        count = sum(source.random() < 0.05 for _ in range(120))
        low, high = share_interval(count, 120)
        misses += not low <= 0.05 <= high
    assert misses <= 6  # 1 % of 300, at most
