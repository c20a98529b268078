"""From windows to the engine that is chosen."""

from dataclasses import replace

import pytest

from berth.bench import compare
from berth.records.results import Likeness, Outcome, Quality
from tests.bench.results_of import FULL, LOAD, ONE, QUALITY, broken, engine, result, standard


def test_first_metric_is_goodput_and_decides() -> None:
    metrics = compare.metrics((ONE, FULL, LOAD), {"a": FULL})
    assert [one.name for one in metrics] == [
        "goodput",
        *("ttft p50 at 1 at a time", "tpot p50 at 1 at a time"),
        *("tokens/s at 16 at a time", "ttft p50 at 16 at a time", "tpot p50 at 16 at a time"),
        *("ttft p50 at 7 req/s", "tpot p50 at 7 req/s"),
    ]
    assert [one.more_is_better for one in metrics] == [True, False, False, True, False, False, False, False]


def test_faster_engine_is_chosen_with_its_interval() -> None:
    found = standard()
    assert found.chosen == "chat-sglang"
    assert {one.outcome for one in found.comparisons} == {Outcome.FASTER}
    assert all(len(one.ratios) == 6 for one in found.comparisons)


def test_first_engine_stays_where_none_is_faster() -> None:
    found = result(engine("chat-vllm", 1.0), engine("chat-sglang", 1.0))
    assert (found.chosen, found.comparisons[0].outcome) == ("chat-vllm", Outcome.TIE)
    assert found.reasons == ("no engine is faster than the first one by more than the margin",)


def test_windows_that_break_a_rule_count_for_nothing_and_nothing_is_chosen() -> None:
    found = result(broken(engine("chat-vllm", 1.0), "F12: late"), engine("chat-sglang", 1.15))
    assert found.comparisons[1].windows == 4  # of one user: in no start the first one
    assert found.chosen == ""
    assert found.reasons == ("chat-vllm, 1 at a time: F12: late",)


@pytest.mark.parametrize(
    ("quality", "why"),
    [
        (Quality(likeness=Likeness.DIFFERENT), "its answers differ"),
        (replace(QUALITY, schemas=(4, 5)), "not all schemas are valid"),
        (replace(QUALITY, schemas=(4, 5), tools=(0, 5)), "not all schemas and tools are valid"),
    ],
)
def test_engine_whose_answers_are_not_fit_is_left_out(quality: Quality, why: str) -> None:
    fast = replace(engine("chat-sglang", 1.5), quality=quality)
    found = result(engine("chat-vllm", 1.0), fast)
    assert found.chosen == "chat-vllm"
    assert found.reasons[0] == f"chat-sglang is left out: {why}"
    assert result(replace(engine("chat-vllm", 1.0), quality=quality)).chosen == ""


def test_one_start_has_a_noise_floor_from_its_own_windows() -> None:
    first = engine("chat-vllm", 1.0)
    alone = replace(first, starts=first.starts[:1])
    metric = compare.metrics((ONE,), {"chat-vllm": FULL})[0]
    found = compare.itself(alone, metric)
    assert found is not None
    assert found.windows == 2
    assert compare.itself(replace(first, starts=()), metric) is None


def test_engine_that_did_not_start_chooses_nothing() -> None:
    found = result(engine("chat-vllm", 1.0), engine("chat-sglang", 1.0, starts=(), problem="out of memory"))
    assert (found.chosen, found.comparisons, found.reasons) == ("", (), ("chat-sglang: out of memory",))
