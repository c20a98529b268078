"""How figures of `berth bench` and of `vllm bench serve` are put next to each other."""

from etc.tools.bench_truth.judge import REQUESTS, compared, figures_of, figures_of_vllm
from tests.bench.results_of import ONE, window

THEIRS = {"median_tpot_ms": 20.0, "median_ttft_ms": 20.0, "total_output_tokens": 32.0 * REQUESTS, "completed": REQUESTS}


def test_same_figures_agree_and_others_do_not() -> None:
    own = figures_of(window(ONE, requests=10, failures=0, output_tokens=320))
    theirs = figures_of_vllm(THEIRS)
    assert all(check.ok for check in compared([own], [theirs]))
    slower = {**theirs, "time per token, ms": 22.0}
    assert [check.ok for check in compared([own], [slower])] == [False, True, True]
    assert [check.ok for check in compared([own] * 3, [theirs, slower, theirs])] == [True] * 3  # medians


def test_requests_that_failed_are_counted() -> None:
    assert figures_of_vllm({**THEIRS, "completed": REQUESTS - 2})["requests that failed"] == 2
    assert figures_of(window(ONE, requests=10, failures=1, output_tokens=320))["requests that failed"] == 1
