"""Is one engine faster than another, or is the difference noise? From windows of several starts; pure.

Requests within a window are not independent, and windows of one start have that start in common: engines differ more
from start to start than within one. So the unit of replication is the start. A ratio is the geometric mean of those of
paired windows, which have the same prompts and arrivals. Its interval is that of Student for the means of the starts of
both engines: a bootstrap over two starts would be far too narrow. Of a single start only its windows are known.

1. Faster or slower: the whole interval is on that side, further from 1 than MARGIN and than the noise floor, which is
   how far the first engine may differ from itself.
2. Tie: the whole interval is within MARGIN. Noise makes no tie.
3. Undecided: anything else, with the number of windows that would decide it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance

from berth.intervals import student
from berth.records.results import Outcome

MARGIN = 0.03
_LEVEL = 0.975  # of each side
_MOST_WINDOWS = 999

Starts = Sequence[Sequence[float | None]]  # of each start its windows, in their order; None: not valid


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Of a ratio."""

    ratio: float
    low: float
    high: float
    windows: int


def interval(first: Starts, other: Starts) -> Interval | None:
    """Of the second one next to the first one. None: there is too little for an interval. A window counts where it is
    valid in every start of both.
    """
    rows = [[*start] for start in (*first, *other)]
    numbers = [number for number, cells in enumerate(zip(*rows, strict=False)) if all(cells)]
    logs = [[math.log(row[number] or 1.0) for number in numbers] for row in rows]
    count = len(numbers) * len(first)
    if count < 2:
        return None
    if len(first) == 1:
        differences = [two - one for one, two in zip(*logs, strict=True)]
        error, freedom = stdev(differences) / math.sqrt(count), count - 1
    else:
        own, others = ([fmean(row) for row in half] for half in (logs[: len(first)], logs[len(first) :]))
        error = math.sqrt((variance(own) + variance(others)) / len(first))
        freedom = 2 * (len(first) - 1)
    centre = fmean(value for row in logs[len(first) :] for value in row) - fmean(
        value for row in logs[: len(first)] for value in row
    )
    half = student(_LEVEL, freedom) * error
    return Interval(ratio=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half), windows=count)


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
