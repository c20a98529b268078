import math
import random

import pytest

from berth.bench.likeness import Agreement, Scores, agreement, divergence, judged, margin
from berth.records.results import Likeness


def answer(source: random.Random, tokens: int, *, others: float = 0.0, ties: float = 0.0) -> tuple[Scores, Scores]:
    """Of an engine, and of one that has another token at a share of the places, or swaps a tie."""
    one, two = [], []
    for _ in range(tokens):
        near = source.random() < ties
        own = {"a": -0.6, "b": -0.8} if near else {"a": -0.1, "b": -3.0}
        swapped = {"a": own["b"], "b": own["a"]}
        one.append(own)
        two.append(swapped if near or source.random() < others else own)
    return one, two


def agreed(seed: int, **shares: float) -> Agreement:
    source = random.Random(seed)
    pairs = [answer(source, 64, **shares) for _ in range(64)]
    found = agreement([one for one, _two in pairs], [two for _one, two in pairs])
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(5))
def test_engine_is_the_same_as_itself_also_where_two_tokens_are_equally_likely(seed: int) -> None:
    floor = agreed(seed, ties=0.01)
    assert judged(agreed(seed + 100), None).likeness is Likeness.SAME
    assert floor.diverged == 0
    assert judged(agreed(seed + 100, ties=0.01), floor).likeness is Likeness.SAME


@pytest.mark.parametrize("seed", range(5))
def test_three_percent_of_other_tokens_are_different(seed: int) -> None:
    found = agreed(seed, others=0.03, ties=0.01)
    assert judged(found, agreed(seed + 1, ties=0.01)).likeness is Likeness.DIFFERENT
    assert found.diverged > 0.5


def test_another_quantization_is_close() -> None:
    found = Agreement(positions=4096, same_top=0.965, mean_kl=0.0047, max_kl=0.5, diverged=0.3)
    assert judged(found, None).likeness is Likeness.CLOSE


def test_nothing_to_compare_is_unknown() -> None:
    assert agreement([[{}]], [[{"a": -1.0}]]) is None
    assert judged(None, None).likeness is Likeness.UNKNOWN


def test_divergence_is_that_of_its_definition() -> None:
    one, two = {"a": math.log(0.5), "b": math.log(0.5)}, {"a": math.log(0.25), "b": math.log(0.75)}
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(one, two) == pytest.approx(expected, abs=1e-6)
    assert divergence(one, one) == 0
    assert divergence({"a": -0.1}, {"b": -0.1}) == 0  # at most as likely as the last one that is known
    assert margin({"a": -0.1}) == math.inf
