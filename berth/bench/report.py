"""A result as text; pure."""

import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

from berth.bench.compare import GOODPUT
from berth.records.results import (
    BenchResult,
    Comparison,
    Difference,
    EngineResult,
    Likeness,
    Outcome,
    Point,
    Quantile,
    Window,
)
from berth.units import size

Cell = Callable[[EngineResult], str]


def text(result: BenchResult) -> str:
    lines = [*heading(result), *table(result), "", *compared(result), "", *own_cost(result), *closing(result)]
    return "\n".join(line.rstrip() for line in lines)


def line(result: BenchResult) -> str:
    """For the list."""
    engines = " ".join(one.replica for one in result.engines)
    state = f"chosen {result.chosen}" if result.chosen else "invalid" if not result.valid else "nothing chosen"
    return f"{result.id:>4}  {_date(result.created)}  {result.model}  {result.workload}  {engines}  {state}"


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def heading(result: BenchResult) -> Iterator[str]:
    revision = f" @ {result.revision}" if result.revision else ""
    where = ", ".join(result.gpus) or f"CPU {result.cpu}"
    yield f"{result.model} = {result.source}{revision}   {where}, context {result.context or 'unknown'}"
    quick = "quick, " if result.quick else ""
    yield (
        f"bench {result.id}, {_date(result.created)}, {quick}{result.seconds / 60:.0f} min, method {result.method}, "
        f"Berth {result.berth}"
    )
    slo = result.slo
    yield (
        f"workload {result.workload} (seed {result.seed})   SLO ttft {slo.ttft_s * 1e3:.0f} ms, "
        f"tpot {slo.tpot_s * 1e3:.0f} ms for {slo.percent:g} % of the requests"
    )
    yield ""


def table(result: BenchResult) -> Iterator[str]:
    head = [one.replica for one in result.engines]
    rows = [("", head), ("", [f"{one.engine} {one.version.partition('+')[0]}" for one in result.engines])]
    for name, cell in table_rows(result):
        values = ["not measured" if one.problem else cell(one) for one in result.engines]
        if any(value != "-" for value in values):
            rows.append((name, values))
    widths = [max(len(values[column]) for _name, values in rows) + 2 for column in range(len(head))]
    first = max(len(name) for name, _values in rows) + 2
    for name, values in rows:
        yield f"{name:<{first}}" + "".join(f"{one:<{width}}" for one, width in zip(values, widths, strict=True))


def table_rows(result: BenchResult) -> Iterator[tuple[str, Cell]]:
    yield "quality", shown_quality
    yield "schemas, tools", shown_shapes
    yield "goodput  req/s", lambda one: at_best(one, lambda window: window.goodput, "{:.2f}")
    for point in points(result):
        for of in ("ttft", "tpot"):
            yield f"{point}: {of} p95", partial(shown_quantile, point=point, of=of)
        yield f"{point}: tokens/s", partial(at_point, point=point, show=lambda window: f"{window.tokens_per_s:.0f}")
    yield "limit", lambda one: one.limit.partition(" do not")[0].partition(" bring")[0] or "-"
    yield "cold start", lambda one: ", ".join(f"{start.cold_s:.1f} s" for start in one.starts) or "-"
    yield "memory", shown_memory
    yield "J per output token", lambda one: at_best(one, joules_per_token, "{:.3f}")
    if result.gpu_hour_cost:
        cost = result.gpu_hour_cost * max(1, len(result.gpus))
        yield "$ per M output tokens", lambda one: at_best(one, lambda window: cost_per_million(window, cost), "{:.2f}")


def shown_memory(one: EngineResult) -> str:
    """The most of any window, or after a start."""
    seen = [start.memory_bytes for start in one.starts] + [window.memory_bytes for window in one.windows()]
    most = max((bytes_ for bytes_ in seen if bytes_), default=0)
    kv = f", {one.kv_tokens} KV tokens" if one.kv_tokens else ""
    return f"{size(most)}{kv}" if most else "-"


def points(result: BenchResult) -> list[Point]:
    """Those at which all engines were measured."""
    measured = [one for one in result.engines if not one.problem]
    if not measured:
        return []
    common = set.intersection(*({window.point for window in one.windows()} for one in measured))
    return sorted(common, key=lambda point: (point.rate, point.concurrency))


def shown_quality(one: EngineResult) -> str:
    found = one.quality
    if found is None:
        return "-"
    if found.same_top is None:
        return str(found.likeness)
    return f"{found.likeness} {found.same_top:.1%}"


def shown_shapes(one: EngineResult) -> str:
    found = one.quality
    if found is None or not found.schemas[1]:
        return "-"
    return f"{found.schemas[0]}/{found.schemas[1]}  {found.tools[0]}/{found.tools[1]}"


def at_point(one: EngineResult, point: Point, show: Callable[[Window], str]) -> str:
    """Of the window in the middle."""
    found = sorted((w for w in one.windows() if w.point == point), key=lambda window: window.tokens_per_s)
    return show(found[len(found) // 2]) if found else "-"


def shown_quantile(one: EngineResult, point: Point, of: str) -> str:
    def show(window: Window) -> str:
        found: Quantile | None = getattr(window, of).get("p95")
        if found is None:
            return "-"
        most = "" if found.most is None else f" (<= {found.most * 1e3:.1f})"
        return f"{found.value * 1e3:.1f} ms{most}"

    return at_point(one, point, show)


def at_best(one: EngineResult, value: Callable[[Window], float | None], form: str) -> str:
    """At the load with the highest goodput, with that load."""
    best = max(one.windows(), key=lambda window: window.goodput, default=None)
    found = None if best is None else value(best)
    return "-" if best is None or found is None else f"{form.format(found)} at {best.point}"


def joules_per_token(window: Window) -> float | None:
    tokens = window.tokens_per_s * window.seconds
    return window.energy_j / tokens if window.energy_j is not None and tokens else None


def cost_per_million(window: Window, per_hour: float) -> float | None:
    return per_hour / (window.tokens_per_s * 3600) * 1e6 if window.tokens_per_s else None


def compared(result: BenchResult) -> Iterator[str]:
    measured = [one for one in result.engines if not one.problem]
    if not result.comparisons:
        yield "nothing to compare: " + ("one engine only" if len(measured) < 2 else "no valid windows")
        return
    yield f"next to {measured[0].replica} (1 is equal; A/A: how far that one may differ from itself)"
    names, metrics = (max(len(getattr(one, name)) for one in result.comparisons) for name in ("replica", "metric"))
    for one in result.comparisons:
        yield f"  {one.replica:<{names}}  {one.metric:<{metrics}}  {shown(one)}"


def shown(one: Comparison) -> str:
    """With the interval and what it depends on."""
    if one.ratio is None or one.low is None or one.high is None:
        return f"{one.outcome}: too few valid windows"
    more = (
        f"; {one.more_windows} more window{'s' * (one.more_windows != 1)} would decide"
        if one.outcome is Outcome.UNDECIDED
        else ""
    )
    return (
        f"{one.ratio:.3f} ({one.low:.3f}-{one.high:.3f})  {str(one.outcome).upper()}  "
        f"{one.windows} windows, A/A {one.noise:.1%}{more}"
    )


def own_cost(result: BenchResult) -> Iterator[str]:
    """What it costs to go through the router."""
    if not any(one.own_cost for one in result.engines):
        return
    yield "Berth's own cost: through the router, minus straight to the engine (mean, 95 % interval)"
    for one in result.engines:
        found = one.own_cost
        if found is None:
            continue
        if found.problem:
            yield from textwrap.wrap(f"{one.replica}: not measured: {found.problem}", 116, initial_indent="  ")
            continue
        names = (("first token", found.ttft), ("time per token", found.tpot), ("total", found.e2e))
        shown = ", ".join(f"{name} {shown_difference(value)}" for name, value in names if value)
        yield f"  {one.replica}: {shown}; {found.pairs} pairs, 1 at a time"
    yield ""


def shown_difference(one: Difference) -> str:
    interval = f"({one.low * 1e3:+.3f} to {one.high * 1e3:+.3f} ms)"
    return f"{one.mean * 1e3:+.3f} ms {interval}" if one.measurable else f"not measurable {interval}"


def closing(result: BenchResult) -> Iterator[str]:
    broken = [*result.broken]
    broken += [
        f"{one.replica}, {window.point}: {rule}"
        for one in result.engines
        for window in one.windows()
        for rule in window.broken
    ]
    broken = list(dict.fromkeys(broken))
    if broken:
        yield f"INVALID: {len(broken)} broken rule{'s' * (len(broken) != 1)}"
        yield from (f"  {rule}" for rule in broken[:20])
    else:
        yield "valid: every rule was kept"
    for note in result.notes:
        yield from textwrap.wrap(f"note: {note}", 118)
    if result.chosen:
        yield f"chosen: {result.chosen} ({'; '.join(result.reasons)}). `engines: auto` uses it."
    else:
        others = [reason for reason in result.reasons if reason not in broken]
        yield "nothing is chosen for `engines: auto`" + (f": {'; '.join(others)}" if others else "")
    if any(one.quality and one.quality.likeness is Likeness.UNKNOWN for one in result.engines):
        yield "quality unknown: an engine gave no log probabilities of its prompt"
    for one in result.engines:
        if one.problem:
            yield from textwrap.wrap(f"{one.replica} was not measured: {one.problem}", 118)
        for problem in one.quality.problems if one.quality else ():
            yield from textwrap.wrap(f"{one.replica}: {problem}", 118)


def goodput(result: BenchResult) -> list[Comparison]:
    return [one for one in result.comparisons if one.metric == GOODPUT]
