"""From the windows of several engines to outcomes, and to the engine that `engines: auto` takes; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from berth.bench.ratios import Interval, interval, noise, outcome, windows_needed
from berth.records.results import Comparison, EngineResult, Likeness, Outcome, Point, Window

GOODPUT = "goodput"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """`value` of a window at the point: None where it has none."""

    name: str
    points: Mapping[str, Point]  # by replica
    value: Callable[[Window], float | None]
    more_is_better: bool


def quantile(of: str, name: str) -> Callable[[Window], float | None]:
    def value(window: Window) -> float | None:
        found = getattr(window, of).get(name)
        return None if found is None else found.value

    return value


def metrics(common: Sequence[Point], limits: Mapping[str, Point]) -> tuple[Metric, ...]:
    """The first decides, the others describe."""
    found = [
        Metric(name=GOODPUT, points=limits, value=lambda one: one.goodput, more_is_better=True),
    ]
    for point in common:
        same = dict.fromkeys(limits, point)
        rate = Metric(name=f"tokens/s at {point}", points=same, value=lambda one: one.tokens_per_s, more_is_better=True)
        found += [rate] if point.concurrency > 1 else []
        for of in ("ttft", "tpot"):
            found.append(
                Metric(name=f"{of} p50 at {point}", points=same, value=quantile(of, "p50"), more_is_better=False)
            )
    return tuple(found)


def compare(engines: Sequence[EngineResult], metrics: Sequence[Metric]) -> tuple[Comparison, ...]:
    """Each engine with the first one; windows that break a rule count for nothing."""
    measured = [one for one in engines if not one.problem]
    if len(measured) < 2:
        return ()
    first, *others = measured
    return tuple(compared(first, other, metric) for other in others for metric in metrics)


def compared(first: EngineResult, other: EngineResult, metric: Metric) -> Comparison:
    count = min(len(first.starts), len(other.starts))
    own, others = ([_values(one, number, metric) for number in range(count)] for one in (first, other))
    found, floor = interval(own, others), noise(itself(first, metric))
    decided = outcome(found, floor, more_is_better=metric.more_is_better)
    return Comparison(
        replica=other.replica,
        metric=metric.name,
        ratio=found.ratio if found else None,
        low=found.low if found else None,
        high=found.high if found else None,
        windows=found.windows if found else 0,
        noise=floor,
        outcome=decided,
        more_windows=windows_needed(found, floor) if found and decided is Outcome.UNDECIDED else 0,
        ratios=tuple(
            two / one
            for before, after in zip(own, others, strict=True)
            for one, two in zip(before, after, strict=False)
            if one and two
        ),
    )


def itself(engine: EngineResult, metric: Metric) -> Interval | None:
    """The engine's last start with its first one; with one start only, its later windows with its first."""
    if not engine.starts:
        return None
    before, after = _values(engine, 0, metric), _values(engine, len(engine.starts) - 1, metric)
    if len(engine.starts) == 1:
        before, after = before[:1] * (len(before) - 1), before[1:]
    return interval([before], [after])


def _values(engine: EngineResult, start: int, metric: Metric) -> list[float | None]:
    point = metric.points[engine.replica]
    windows = [one for one in engine.starts[start].windows if one.role == "point" and one.point == point]
    return [metric.value(one) if one.valid else None for one in windows]


def unfit(engine: EngineResult) -> str:
    """Why its answers do not allow that it is chosen."""
    found = engine.quality
    if found is None:
        return ""
    if found.likeness is Likeness.DIFFERENT:
        return "its answers differ"
    missing = [name for name, (valid, asked) in (("schemas", found.schemas), ("tools", found.tools)) if valid < asked]
    return f"not all {' and '.join(missing)} are valid" if missing else ""


def choice(
    engines: Sequence[EngineResult], comparisons: Sequence[Comparison], *, quick: bool, broken: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """The replica for `engines: auto`, and the reasons; "" where the run does not allow one."""
    reasons = list(broken)
    reasons += [f"{one.replica}: {one.problem}" for one in engines if one.problem]
    reasons += [
        f"{one.replica}, {window.point}: {rule}"
        for one in engines
        for window in one.windows()
        for rule in window.broken
    ]
    if quick:
        reasons.append("a quick run decides nothing")
    if reasons or not engines:
        return "", tuple(reasons)
    able = [one for one in engines if not unfit(one)]
    left = [f"{one.replica} is left out: {why}" for one in engines if (why := unfit(one))]
    ratios = {one.replica: one for one in comparisons if one.metric == GOODPUT}
    faster = [one for one in able if one.replica in ratios and ratios[one.replica].outcome is Outcome.FASTER]
    if not faster:
        chosen = able[0].replica if able else ""
        return chosen, (*left, "no engine is faster than the first one by more than the margin")
    best = max(faster, key=lambda one: ratios[one.replica].ratio or 0.0)
    own = ratios[best.replica]
    shown = f"{own.ratio or 0:.2f}x ({own.low or 0:.2f}-{own.high or 0:.2f}) goodput of {engines[0].replica}"
    return best.replica, (*left, shown)
