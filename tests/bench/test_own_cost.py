"""What the router adds, from pairs of requests whose times are known."""

import asyncio
from collections.abc import Iterator
from itertools import repeat

import pytest

from berth.bench import own_cost as module
from berth.bench.own_cost import LEAST_PAIRS, MOST_PAIRS, own_cost
from berth.bench.window import Sample
from berth.bench.workload import Ask
from berth.records.results import OwnCost


class Way:
    """Its times are those that it is told; no time passes."""

    def __init__(self, name: str, sent: list[str], ttft_s: float, tpot_s: float, errors: Iterator[str]) -> None:
        self._name, self._sent, self._ttft_s, self._tpot_s, self._errors = name, sent, ttft_s, tpot_s, errors

    async def ask(self, ask: Ask, sample: Sample) -> None:
        sample.error = next(self._errors)
        self._sent.append(self._name)
        first = sample.scheduled + self._ttft_s + 1e-6 * len(self._sent)
        sample.frames.extend(first + self._tpot_s * number for number in range(ask.tokens))
        sample.tokens = ask.tokens


def measured(sent: list[str], limit_s: float = 600.0, tokens: int = 4, errors: Iterator[str] | None = None) -> OwnCost:
    direct = Way("d", sent, 0.05, 0.01, repeat(""))
    router = Way("r", sent, 0.052, 0.01, errors or repeat(""))
    asks = repeat(Ask(prompt=(1, 2), tokens=tokens))
    return asyncio.run(own_cost(direct, router, asks, limit_s))


def test_difference_of_pairs_is_found_with_its_interval() -> None:
    sent = list[str]()
    found = measured(sent)
    assert (found.problem, found.pairs) == ("", MOST_PAIRS)
    assert found.ttft
    assert found.ttft.mean == pytest.approx(0.002, abs=1e-5)
    assert found.ttft.low < found.ttft.mean < found.ttft.high
    assert found.ttft.measurable
    assert found.tpot
    assert found.tpot.mean == pytest.approx(0, abs=1e-6)
    assert "".join(sent[:7]) == "rddrdrd"  # admitted; then each prompt once before, and the ways in turn


def test_answers_of_one_token_have_no_time_per_token() -> None:
    assert measured([], tokens=1).tpot is None


@pytest.mark.parametrize(
    ("errors", "problem"),
    [
        (repeat("status 503: leased"), "the router does not pass a request on: status 503: leased"),
        (iter(["not yet", "", "", "broken"]), "a request failed: broken"),
    ],
)
def test_what_fails_is_said(monkeypatch: pytest.MonkeyPatch, errors: Iterator[str], problem: str) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0)
    assert measured([], errors=errors).problem == problem


def test_too_little_time_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGER_S", 0.0)
    assert measured([], limit_s=0).problem == f"0 pairs of requests within 0 s, {LEAST_PAIRS} are needed"
