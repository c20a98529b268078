"""Is one engine faster than another, or is the difference noise? From paired windows; pure.

The unit of replication is the window, since requests within one are not independent; windows of one start have that
start in common. A ratio is the geometric mean of the ratios of paired windows. Its interval comes from a bootstrap over
starts and then over their windows, widened for their small number by Student's quantile.

1. Faster or slower: the whole interval is on that side, further from 1 than MARGIN and than the noise floor, which is
   how far the first engine may differ from itself.
2. Tie: the whole interval is within MARGIN. Noise makes no tie.
3. Undecided: anything else, with the number of windows that would decide it.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from berth.intervals import student
from berth.records.results import Outcome

MARGIN = 0.03
DRAWS = 4000
_LEVEL = 0.975  # of each side
_MOST_WINDOWS = 999


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Of a ratio."""

    ratio: float
    low: float
    high: float
    windows: int


def interval(starts: Sequence[Sequence[float]], seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """`starts`: for each pair of starts the ratios of its windows. None: there are too few for an interval."""
    logs = [[math.log(ratio) for ratio in start] for start in starts if start]
    count = sum(map(len, logs))
    if count < 2:
        return None
    centre = fmean(value for start in logs for value in start)
    drawn = means(logs, random.Random(seed), draws)  # noqa: S311 - a bootstrap
    wider = student(_LEVEL, count - 1) / NormalDist().inv_cdf(_LEVEL) * math.sqrt(count / (count - 1))
    low, high = (drawn[int(share * len(drawn))] for share in (1 - _LEVEL, _LEVEL))
    return Interval(
        ratio=math.exp(centre),
        low=math.exp(centre + wider * (min(low, centre) - centre)),
        high=math.exp(centre + wider * (max(high, centre) - centre)),
        windows=count,
    )


def means(logs: Sequence[Sequence[float]], source: random.Random, draws: int) -> list[float]:
    """Means of samples: of starts, and of the windows of each."""
    found = []
    for _ in range(draws):
        starts = source.choices(logs, k=len(logs))
        values = [value for start in starts for value in source.choices(start, k=len(start))]
        found.append(sum(values) / len(values))
    return sorted(found)


def noise(found: Interval | None) -> float:
    """How far an engine may be from itself: 0.01 is one percent."""
    return max(abs(found.low - 1), abs(found.high - 1)) if found else 0.0


def outcome(found: Interval | None, noise_floor: float, *, more_is_better: bool) -> Outcome:
    margin = max(MARGIN, noise_floor)
    if found is None:
        return Outcome.UNDECIDED
    above, below = found.low > 1 + margin, found.high < 1 / (1 + margin)
    if above or below:
        return Outcome.FASTER if above is more_is_better else Outcome.SLOWER
    within = found.low >= 1 / (1 + MARGIN) and found.high <= 1 + MARGIN
    return Outcome.TIE if within else Outcome.UNDECIDED


def windows_needed(found: Interval, noise_floor: float) -> int:
    """More windows, in which the interval would become small enough to decide."""
    margin = math.log1p(max(MARGIN, noise_floor))
    half = math.log(found.high / found.low) / 2
    distance = abs(abs(math.log(found.ratio)) - margin)
    if distance * math.sqrt(_MOST_WINDOWS) <= half:
        return _MOST_WINDOWS
    return max(1, math.ceil(found.windows * ((half / distance) ** 2 - 1)))
