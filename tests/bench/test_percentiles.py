"""Percentiles and their bounds: against the published figures of MLPerf's LoadGen, and of tables."""

import math
import random

import pytest

from berth.bench.percentiles import meets, nearest_rank, upper_bound
from berth.intervals import student, tail


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        (0.90, (44, 64, 81, 127, 197)),
        (0.95, (90, 130, 165, 259, 398)),
        (0.99, (459, 662, 838, 1307, 2010)),
    ],
)
def test_requests_needed_are_those_of_early_stopping(share: float, counts: tuple[int, ...]) -> None:
    for count, misses in zip(counts, (0, 1, 2, 5, 10), strict=True):
        assert meets(count, misses, 100 * share)
        assert not meets(count - 1, misses, 100 * share)


def test_all_missed_meets_nothing() -> None:
    assert not meets(10, 10, 50)


def binomial_tail(x: float, a: int, b: int) -> float:
    """What I_x(a, b) is for whole numbers, summed up."""
    count = a + b - 1
    return sum(math.comb(count, k) * x**k * (1 - x) ** (count - k) for k in range(a, count + 1))


def test_beta_function_is_that_of_its_definition() -> None:
    for x in (0.0, 0.01, 0.3, 0.5, 0.95, 0.999, 1.0):
        for a, b in ((1, 1), (2, 7), (40, 3), (90, 1), (60, 60)):
            assert tail(x, a, b) == pytest.approx(binomial_tail(x, a, b), abs=4e-12)
    assert tail(0.3, 0, 5) == 1


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)])
def test_student_is_that_of_the_tables(freedom: int, value: float) -> None:
    assert student(0.975, freedom) == pytest.approx(value, abs=6e-4)


def test_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [nearest_rank(values, percent) for percent in (0.5, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert nearest_rank([], 50) is None


def test_bound_is_above_the_percentile_with_the_confidence_that_it_says() -> None:
    source = random.Random(1)
    above = sum((upper_bound([source.random() for _ in range(200)], 95) or 0) >= 0.95 for _ in range(400))
    assert above >= 392
    assert upper_bound([1.0] * 89, 95) is None
    assert upper_bound([1.0] * 130, 95) == 1.0
