"""How often comparisons of simulated engines say what is known to be true."""

from collections.abc import Iterator
from dataclasses import dataclass

from berth.bench.percentiles import nearest_rank
from berth.bench.ratios import DRAWS, Interval, interval, outcome
from berth.records.results import Outcome
from berth.sim.load.batch import Batch, LoadModel

STARTS, WINDOWS = 2, 5
REQUESTS, TOKENS, PLACES = 48, 24, 8
ITL_S, JITTER = 0.01, 0.1


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Of many comparisons of an engine with one whose time per token is `slower` times as long."""

    slower: float
    trials: int
    outcomes: dict[Outcome, int]
    covered: int  # intervals that hold the truth
    example: Interval


def median_tpot(model: LoadModel) -> float:
    """Of one window in a closed loop on the batch itself: no event loop, since thousands of them are needed."""
    batch, now, spans = Batch(model), 0.0, list[float]()
    begun = {batch.add((1,), TOKENS): 0.0 for _ in range(PLACES)}
    while len(spans) < REQUESTS:
        now += batch.begin() or 0.0
        for one in tuple(batch.end()):
            if one.tokens == 1:
                begun[one] = now
            elif one.tokens == TOKENS:
                spans.append((now - begun.pop(one)) / (TOKENS - 1))
                begun[batch.add((1,), TOKENS)] = now
    return nearest_rank(spans, 50) or 0.0


def compared(trial: int, slower: float, draws: int = DRAWS) -> Interval:
    """Two starts of each engine, five windows each, and no two with the same seed."""

    def ratios(start: int) -> Iterator[float]:
        for window in range(WINDOWS):
            seed = ((trial * STARTS + start) * WINDOWS + window) * 2
            first = median_tpot(LoadModel(itl_s=ITL_S, jitter=JITTER, seed=seed))
            yield median_tpot(LoadModel(itl_s=ITL_S * slower, jitter=JITTER, seed=seed + 1)) / first

    found = interval([list(ratios(start)) for start in range(STARTS)], trial, draws)
    if found is None:
        raise AssertionError("ten windows suffice")
    return found


def tally(slower: float, trials: int, draws: int = DRAWS) -> Tally:
    found = [compared(round(slower * 1e6) + trial, slower, draws) for trial in range(trials)]
    outcomes = [outcome(one, 0.0, more_is_better=False) for one in found]
    return Tally(
        slower=slower,
        trials=trials,
        outcomes={one: outcomes.count(one) for one in Outcome},
        covered=sum(one.low <= slower <= one.high for one in found),
        example=found[0],
    )
