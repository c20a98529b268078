import math

import pytest

from etc.tools.rivals.columns import COLUMNS, Figures, cpu_us, failures
from etc.tools.rivals.examples import comparison, measurement
from etc.tools.rivals.loads import REQUESTS, STREAMS


def figures() -> Figures:
    return comparison(
        STREAMS,
        [
            measurement("direct", cpu_s=0, tokens=10_000, first_ms=20),
            measurement("berth", cpu_s=0.4, tokens=10_000, first_ms=23),
            measurement("vllm-router", cpu_s=0.2, tokens=10_000, first_ms=22),
        ],
        [
            measurement("direct", cpu_s=0, tokens=10_000, first_ms=40),
            measurement("berth", cpu_s=0.9, tokens=10_000, first_ms=45),
            measurement("vllm-router", cpu_s=0.6, tokens=10_000, first_ms=42),
        ],
    ).figures(STREAMS)


def shown(router: str) -> dict[str, float]:
    return {column.key: column.value(figures(), router) for column in COLUMNS[STREAMS]}


def test_a_router_costs_its_cpu_time_per_token() -> None:
    assert shown("berth")["cpu_us"] == pytest.approx((40 + 90) / 2)


def test_ratios_and_differences_are_taken_within_a_round() -> None:
    berth = shown("berth")
    assert berth["cpu_ratio"] == pytest.approx((2 + 1.5) / 2)
    assert berth["added_p50_ms"] == pytest.approx((3 + 5) / 2)


def test_no_router_costs_nothing_and_adds_nothing() -> None:
    direct = shown("direct")
    assert math.isnan(direct["cpu_us"])
    assert math.isnan(direct["added_p50_ms"])
    assert math.isnan(direct["pss_mb"])
    assert direct["per_s"] == 1000


def test_the_memory_is_that_of_the_largest_process() -> None:
    assert shown("berth")["pss_mb"] == 30


def test_whole_answers_are_counted_by_requests() -> None:
    one = measurement("berth", cpu_s=0.2)
    assert cpu_us(one) == pytest.approx(200)
    assert [column.key for column in COLUMNS[REQUESTS]].count("gap_p50_ms") == 0


def test_what_was_cut_counts_as_failed() -> None:
    assert failures(measurement("litellm", cpu_s=1, failures={"status 500": 2, "cut": 1}, unfinished=4)) == 7
