"""The gates of a canary: sequential tests on failures, latency and behaviour of the candidate; pure.

A sequential test may be looked at after every request, without rejecting a good candidate more often: Wald's
probability ratio test, of "as bad as the stable replica" against "worse by a margin". It rejects a good candidate in
1 % of all canaries, and overlooks one that is worse by the margin in 5 %.
"""

import math
from collections.abc import Iterator
from typing import Final

from berth.ipc import shadow, shadow_results
from berth.ipc.migration import Counts, Gate, Migration

ALPHA: Final = 0.01  # a good candidate is rejected
BETA: Final = 0.05  # a bad one is not
REJECTS: Final = math.log((1 - BETA) / ALPHA)
FEWEST_FAILURES: Final = 0.001  # the share that is assumed at least
WORSE: Final = 0.019  # more failures by so much
FEWEST_SLOW: Final = 0.05
SLOWER: Final = 0.10
SHORTEST, LONGEST = 0.8, 1.25  # the mean length of answers, against that of the stable replica
FEWEST_LENGTHS: Final = 30  # of each side
_SURE: Final = 2.58  # standard errors: 99 %
_MOST: Final = 0.99  # of a share that is assumed


def gates(own: Counts, other: Counts) -> Iterator[Gate]:
    """Of the candidate, next to the stable replica in the same time."""
    for name, bad, count, wrong, total, least, margin in (
        ("failures", own.failures, own.attempts, other.failures, other.attempts, FEWEST_FAILURES, WORSE),
        ("empty answers", own.empty, own.answers, other.empty, other.answers, FEWEST_FAILURES, WORSE),
        ("slow answers", own.slow, own.timed, other.slow, other.timed, FEWEST_SLOW, SLOWER),
    ):
        usual = max(least, wrong / total if total else 0.0)
        passed = ratio(bad, count, usual, usual + margin) < REJECTS
        numbers = f"{bad} of {count}; the stable replica: {wrong} of {total}"
        yield Gate(name=name, passed=passed, numbers=numbers)
    fits = own.unfit == 0 or other.unfit > 0
    yield Gate(
        name="formats",
        passed=fits,
        numbers=f"{own.unfit} without the requested format; the stable replica: {other.unfit}",
    )
    yield lengths(own, other)


def of_migration(migration: Migration) -> tuple[Gate, ...]:
    """None before anything was counted."""
    return tuple(gates(migration.own, migration.other)) if migration.own.attempts else ()


def failed(own: Counts, other: Counts) -> str:
    """The first gate that is not passed, with its numbers; "": all are."""
    return next((f"{gate.name}: {gate.numbers}" for gate in gates(own, other) if not gate.passed), "")


def pairs(counts: shadow.Counts) -> int:
    """The answers that a shadow has compared."""
    return shadow_results.results("", "", "", 0.0, counts).pairs


def shadow_failed(counts: shadow.Counts) -> str:
    """Why a candidate gets no canary, by its answers to copies of requests; "": it may. Texts of two engines differ, so
    they decide nothing.
    """
    found = shadow_results.results("", "", "", 0.0, counts)
    if ratio(found.error, found.pairs, FEWEST_FAILURES, FEWEST_FAILURES + WORSE) >= REJECTS:
        kinds = ", ".join(f"{kind} {count}" for kind, count in found.failures.items())
        return f"shadow failures: {found.error} of {found.pairs} ({kinds})"
    if found.structure:
        return f"shadow formats: {found.structure} of {found.pairs} without the requested form, or empty"
    length = found.means["length"]
    low, high = length.low or LONGEST, length.high or SHORTEST  # None: of too few
    if length.pairs >= FEWEST_LENGTHS and not (low <= LONGEST and high >= SHORTEST):
        return f"shadow lengths: {length.mean:.2f} times the client's ({low:.2f} to {high:.2f})"
    return ""


def ratio(bad: int, count: int, usual: float, worse: float) -> float:
    """The logarithm of the probability ratio: how much more likely `bad` of `count` are at the share `worse`."""
    usual, worse = min(usual, _MOST), min(worse, (1 + _MOST) / 2)
    good = count - bad
    return bad * math.log(worse / usual) + good * math.log((1 - worse) / (1 - usual))


def lengths(own: Counts, other: Counts) -> Gate:
    """Not passed where the mean length differs for certain: its whole interval is on the bad side."""
    if min(own.answers, other.answers) < FEWEST_LENGTHS or not own.tokens or not other.tokens:
        numbers = f"{own.answers} and {other.answers} answers, of {FEWEST_LENGTHS} that are needed"
        return Gate(name="lengths", passed=True, numbers=numbers)
    found = (own.tokens / own.answers) / (other.tokens / other.answers)
    spread = math.exp(_SURE * math.hypot(_relative_error(own), _relative_error(other)))
    low, high = found / spread, found * spread
    numbers = f"{found:.2f} times those of the stable replica ({low:.2f} to {high:.2f})"
    return Gate(name="lengths", passed=low <= LONGEST and high >= SHORTEST, numbers=numbers)


def _relative_error(counts: Counts) -> float:
    """Of the mean length."""
    mean = counts.tokens / counts.answers
    variance = max(0.0, counts.tokens_squared / counts.answers - mean * mean)
    return math.sqrt(variance / counts.answers) / mean
