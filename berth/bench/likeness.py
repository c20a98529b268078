"""Do two engines say the same? From how each scores the same answers; pure.

Text alone says little: one engine gives many different texts for one greedy request. So every engine scores the answers
of the first one, token by token, each with all that comes before it. A token counts as another one only if the first
engine was sure of its own: by more than TIE_NATS before its second choice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from berth.records.results import Likeness, Quality

TIE_NATS = 0.25
SAME_TOP, SAME_KL, SAME_DIVERGED = 0.99, 0.005, 0.02
CLOSE_TOP, CLOSE_KL = 0.96, 0.02
_LEAST = 1e-9  # of a probability

Scores = Sequence[Mapping[str, float]]  # of each token of an answer: the likeliest ones, with log probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    positions: int
    same_top: float  # share of the tokens
    mean_kl: float  # in nats
    max_kl: float
    diverged: float  # share of the answers with a token that is another one


def agreement(reference: Sequence[Scores], other: Sequence[Scores]) -> Agreement | None:
    """None where there is nothing to compare."""
    same, distances, diverged = list[bool](), list[float](), list[bool]()
    for own, others in zip(reference, other, strict=True):
        pairs = [(one, two) for one, two in zip(own, others, strict=False) if one and two]
        tops = [max(one, key=one.__getitem__) == max(two, key=two.__getitem__) for one, two in pairs]
        same += tops
        distances += [divergence(one, two) for one, two in pairs]
        diverged.append(any(not top and margin(one) > TIE_NATS for top, (one, _two) in zip(tops, pairs, strict=True)))
    if not same:
        return None
    return Agreement(
        positions=len(same),
        same_top=fmean(same),
        mean_kl=fmean(distances),
        max_kl=max(distances),
        diverged=fmean(diverged),
    )


def margin(scores: Mapping[str, float]) -> float:
    """Of the first choice, before the second."""
    ordered = sorted(scores.values(), reverse=True)
    return ordered[0] - ordered[1] if len(ordered) > 1 else math.inf


def divergence(one: Mapping[str, float], two: Mapping[str, float]) -> float:
    """The Kullback-Leibler divergence over the likeliest tokens; all others together are one more. A token that is not
    among the likeliest of the other engine is at most as likely as the last of them.
    """
    least = min(two.values())
    found = 0.0
    for token, value in one.items():
        found += math.exp(value) * (value - two.get(token, least))
    rest, others = (max(_LEAST, 1 - sum(math.exp(value) for value in scores.values())) for scores in (one, two))
    return max(0.0, found + rest * math.log(rest / others))


def judged(found: Agreement | None, floor: Agreement | None) -> Quality:
    """`floor`: how the first engine compares with itself."""
    if found is None:
        return Quality(likeness=Likeness.UNKNOWN)
    lost, noise = (1 - floor.same_top, floor.mean_kl) if floor else (0.0, 0.0)
    likeness = Likeness.DIFFERENT
    if found.same_top >= CLOSE_TOP - lost and found.mean_kl <= CLOSE_KL + noise:
        likeness = Likeness.CLOSE
    if (
        found.same_top >= SAME_TOP - lost
        and found.mean_kl <= SAME_KL + noise
        and found.diverged <= SAME_DIVERGED + (floor.diverged if floor else 0.0)
    ):
        likeness = Likeness.SAME
    return Quality(
        likeness=likeness,
        positions=found.positions,
        same_top=found.same_top,
        mean_kl=found.mean_kl,
        max_kl=found.max_kl,
        diverged=found.diverged,
        floor_same_top=floor.same_top if floor else None,
    )
