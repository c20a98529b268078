"""The order of starts, and the search for the load that an engine can take."""

import pytest

from berth.bench.plan_points import QUICK, Profile, common_points, limit, next_concurrency, order
from berth.records.results import Point, Slo, Window
from tests.bench.results_of import window

SLO = Slo()


@pytest.mark.parametrize(
    ("engines", "rounds", "expected"),
    [(2, 2, [0, 1, 1, 0]), (3, 2, [0, 1, 2, 2, 1, 0]), (2, 3, [0, 1, 1, 0, 0, 1]), (1, 2, [0, 0]), (2, 1, [0, 1])],
)
def test_order_is_abba(engines: int, rounds: int, expected: list[int]) -> None:
    assert order(engines, rounds) == expected


def searched(places: int, slo_at: int, most: int = 1024) -> list[Window]:
    """All windows of the search on an engine with so many places, which keeps to the SLO up to `slo_at`."""
    found: list[Window] = []
    while (count := next_concurrency(found, SLO, most)) is not None:
        achieved = float(min(count, places))
        fine = count <= slo_at
        found.append(window(Point(concurrency=count), achieved=achieved, attainment=1.0 if fine else 0.5))
        assert len(found) <= 20, found
    return found


@pytest.mark.parametrize("knee", [1, 3, 7, 20, 33, 100, 500])
def test_search_finds_the_limit_within_a_tenth_and_twelve_windows(knee: int) -> None:
    found = searched(10_000, knee)
    best, reason = limit(found, SLO, 1024)
    assert len(found) <= 14
    assert best <= knee <= best + max(1, best // 8)
    assert reason == f"more than {best} at a time do not keep to the SLO"


def test_search_ends_where_more_requests_bring_no_more() -> None:
    found = searched(8, 10_000)
    best, reason = limit(found, SLO, 1024)
    assert (best, "bring less than 5% more" in reason) == (8, True)


def test_search_ends_at_what_the_engine_takes() -> None:
    found = searched(1000, 10_000, most=24)
    assert [one.point.concurrency for one in found] == [1, 2, 4, 8, 16, 24]
    assert limit(found, SLO, 24) == (24, "the engine takes 24 at a time")


def test_engine_that_is_too_slow_for_one_request() -> None:
    found = searched(10, 0)
    assert limit(found, SLO, 1024) == (1, "not even one request at a time keeps to the SLO (50%)")


def test_common_points_are_one_user_the_limit_and_a_share_of_its_load() -> None:
    found = searched(1000, 16)
    assert common_points(found, 16) == (Point(concurrency=1), Point(concurrency=16), Point(rate=11.2))
    assert common_points(found[:1], 1) == (Point(concurrency=1), Point(rate=0.7))
    assert common_points([], 4) == (Point(concurrency=1), Point(concurrency=4))


def test_sizes_grow_with_the_requests_at_a_time() -> None:
    profile = Profile()
    assert profile.size(Point(concurrency=64), first=True).requests == 640
    assert [profile.size(Point(concurrency=count), first=False).requests for count in (1, 4, 10)] == [20, 40, 100]
    assert profile.size(Point(rate=5.0), first=False).seconds == 60
    assert profile.size(Point(concurrency=64), first=True).warm_requests == 128
    assert profile.size(Point(concurrency=64), first=False, search=True).requests == 100
    assert QUICK.size(Point(rate=1.0), first=True).warm_s == 5
