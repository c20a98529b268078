"""The rules that a window may break, one at a time."""

import random
from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest

from berth.bench.window import Asked, Box, Run, Sample, drift, window
from berth.records.results import Point, Slo

COUNT = 100


def sample(number: int) -> Sample:
    """One every 10 ms: 20 ms to the first of ten tokens, 10 ms between them."""
    at = number * 0.01
    times = array("d", [at + 0.02 + 0.01 * token for token in range(10)])
    return Sample(
        scheduled=at,
        sent=at,
        asked_prompt=64,
        asked_tokens=10,
        frames=times,
        ended=times[-1],
        prompt_tokens=64,
        tokens=10,
    )


ASKED = Asked(point=Point(rate=100.0), seed=1, slo=Slo(ttft_s=0.1, tpot_s=0.02), requests=COUNT)


def found(
    change: Callable[[int, Sample], None] = lambda _number, _one: None,
    box: Box | None = None,
    asked: Asked = ASKED,
    in_flight: int = 11,
) -> tuple[str, ...]:
    samples = [sample(number) for number in range(COUNT)]
    for number, one in enumerate(samples):
        change(number, one)
    run = Run(measured=tuple(samples), others=(), begin=0.0, end=1.0, in_flight=in_flight)
    return window(run, asked, box or Box()).broken


def test_window_that_breaks_nothing_is_valid() -> None:
    assert found() == ()


def set_to(**fields: object) -> Callable[[int, Sample], None]:
    """Of every tenth."""

    def change(number: int, one: Sample) -> None:
        if number % 10 == 0:
            for name, value in fields.items():
                setattr(one, name, value)

    return change


def later(number: int, one: Sample) -> None:
    one.sent = one.scheduled + (0.5 if number % 10 == 0 else 0)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (set_to(prompt_tokens=65), "F4: 10 prompts have another number of tokens for the engine"),
        (set_to(tokens=9), "F5: 90.0% of the answers have the length that was asked for"),
        (set_to(cached_tokens=60), "F7: 9% of the prompt tokens came from a warm cache"),
        (later, "F12: the client was the limit: it sent up to 500 ms late (p99; allowed are 5 ms)"),
        (set_to(sent=None), "F12: the client was the limit: 10 requests were not sent"),
        (set_to(error="status 500: out of memory"), "F12: 10 of 100 requests failed: status 500: out of memory"),
    ],
)
def test_answers_that_break_a_rule(change: Callable[[int, Sample], None], rule: str) -> None:
    assert found(change) == (rule,)


@pytest.mark.parametrize(
    ("box", "rule"),
    [
        (Box(foreign="process 7 holds 900 MiB of a GPU"), "F1: process 7 holds 900 MiB of a GPU"),
        (Box(throttled_share=0.25), "F11: the GPU was throttled for 25% of the time"),
        (Box(client_cpu=0.93), "F12: the client used 93% of a CPU"),
    ],
)
def test_boxes_that_break_a_rule(box: Box, rule: str) -> None:
    assert found(box=box) == (rule,)


def test_too_few_requests_and_a_drained_warm_up_break_rules() -> None:
    assert found(asked=replace(ASKED, requests=200)) == ("F9: 100 requests, 200 are needed",)
    assert found(in_flight=0) == ("F8: the warm-up had drained: 0 requests in progress, at least 6 are usual",)
    assert found(in_flight=0, asked=replace(ASKED, point=Point(concurrency=3))) == ()


@pytest.mark.parametrize(
    ("spread", "trend", "is_found"),
    [
        (0.0, 0.0, False),
        (0.0, 0.5, True),
        (0.0, 0.2, False),  # too little to matter
        (0.2, 0.0, False),
        (0.2, -1.0, True),
        (2.0, 0.5, False),  # chance may do that
    ],
)
def test_drift_is_a_change_that_matters_and_is_no_chance(spread: float, trend: float, is_found: bool) -> None:
    source = random.Random(4)
    values = [1 + trend * (number / 200 - 0.5) + source.uniform(-spread, spread) for number in range(200)]
    found = drift(values)
    assert (found is not None) is is_found
    assert found is None or found == pytest.approx(trend, rel=0.25)
    assert drift(values[:23]) is None


def test_prompts_may_share_a_beginning_on_purpose() -> None:
    assert found(set_to(cached_tokens=60), asked=replace(ASKED, shares=True)) == ()


def test_figures_count_from_the_schedule_and_only_what_is_in_the_window() -> None:
    samples = [sample(number) for number in range(COUNT)]
    for one in samples:
        one.scheduled -= 0.005
    run = Run(
        measured=tuple(samples),
        others=(Sample(scheduled=0, asked_prompt=1, asked_tokens=1),),
        begin=0.0,
        end=1.0,
        in_flight=11,
    )
    shown = window(run, ASKED, Box())
    assert shown.ttft["p50"].value == pytest.approx(0.025)
    assert shown.ttft_sent["p50"].value == pytest.approx(0.02)
    assert shown.tpot["p50"].value == pytest.approx(0.01)
    assert shown.gap_p99_s == pytest.approx(0.01)
    assert shown.tokens_per_s == pytest.approx(945, abs=15)  # the last ones come after it
    assert shown.attainment == 1
    assert shown.goodput == shown.achieved == pytest.approx(90, abs=2)
    assert window(replace(run, measured=()), ASKED, Box()).requests == 0
