"""What was measured, in tables and sentences. Pure."""

import math
from collections.abc import Iterator, Sequence

from etc.tools.rivals import columns
from etc.tools.rivals.columns import BASELINE, COLUMNS, Figures, cpu_us, first_p50_ms, pss_mb
from etc.tools.rivals.compare import Comparison
from etc.tools.rivals.figures import median, ratio
from etc.tools.rivals.loads import SATURATION_CONNECTIONS, STREAMS, TITLES, UNITS
from etc.tools.rivals.measure import Measurement
from etc.tools.rivals.saturation import Saturated
from etc.tools.rivals.table import number, rounded, table, times

_BUSY = 0.9  # of a CPU: who uses more of one may be what held the others up
_BERTH = "berth"
_FIRST_OVER_MS = 1.0
_OTHERS = 0.1  # of the CPUs: with more than that in other hands, figures are not to be quoted
_WORKER_MB = 70.0


def load_table(comparison: Comparison, load: str) -> str:
    figures = comparison.figures(load)
    rows = [
        [router, *(column.show(column.value(figures, router)) for column in COLUMNS[load])]
        for router in figures.measurements
    ]
    return table(["", *(column.title for column in COLUMNS[load])], rows)


def saturation_table(rounds: Sequence[Sequence[Saturated]]) -> str:
    names = sorted({one.measurement.router for round_ in rounds for one in round_})
    by_name = {name: [one for round_ in rounds for one in round_ if one.measurement.router == name] for name in names}
    base = median(one.measurement.units_per_s for one in by_name[names[0]]) if names else math.nan
    header = ["", "requests/s", "x", "CPU us", "p50 ms", "p99 ms", "/health p50 ms", "p99 ms", "max ms", "failed"]
    return table(header, [_saturation_row(name, found, base) for name, found in by_name.items()])


def _saturation_row(name: str, found: Sequence[Saturated], base: float) -> list[str]:
    measured = [one.measurement for one in found]
    health = [one.health for one in found if one.health]
    per_s = median(one.units_per_s for one in measured)
    failed = sum(one.health_failures + columns.failures(one.measurement) for one in found)
    return [
        name,
        number(per_s),
        times(ratio(per_s, base)),
        rounded(median(map(cpu_us, measured))),
        rounded(median(map(first_p50_ms, measured))),
        rounded(median(map(columns.first_p99_ms, measured))),
        rounded(median(one.p50 for one in health)),
        rounded(median(one.p99 for one in health)),
        rounded(max((one.most for one in health), default=math.nan)),
        number(failed),
    ]


def budget(comparison: Comparison) -> Iterator[str]:
    """Berth's figures beside what they may be."""
    for load in comparison.rounds:
        figures = comparison.figures(load)
        value = figures.ratio(_BERTH, cpu_us)
        yield _verdict(f"CPU per {UNITS[load]}", value, 1.0, f"{times(value)} that of {BASELINE}, at most 1.00x")
    if STREAMS in comparison.rounds:
        figures = comparison.figures(STREAMS)
        value = figures.added(_BERTH, first_p50_ms, BASELINE)
        yield _verdict("first token p50", value, _FIRST_OVER_MS, f"{value:+.2f} ms beside {BASELINE}, under +1 ms")
    sizes = [comparison.figures(load).median(_BERTH, pss_mb) for load in comparison.rounds]
    value = max((size for size in sizes if not math.isnan(size)), default=math.nan)
    yield _verdict("memory of a worker", value, _WORKER_MB, f"{rounded(value)} MB PSS, under {_WORKER_MB:g} MB")


def others_cpus(comparison: Comparison) -> float:
    """The most that other programs kept busy during any measurement."""
    found = [one for rounds in comparison.rounds.values() for round_ in rounds for one in round_]
    return max((one.others_cpus for one in found), default=0.0)


def verdicts(comparison: Comparison, cpus: int) -> Iterator[str]:
    """The budget, or why nothing is said about it: a busy machine changes even the ratios."""
    others = others_cpus(comparison)
    if others > _OTHERS * cpus:
        yield f"not quoted: other programs kept {others:.2f} of {cpus} CPUs busy, at most {_OTHERS * cpus:.2f} may be"
    else:
        yield from budget(comparison)


def _verdict(what: str, value: float, allowed: float, text: str) -> str:
    word = "not known" if math.isnan(value) else "kept" if value <= allowed else "OVER"
    return f"{what}: {text}: {word}"


def notes(comparison: Comparison, cpus: int) -> Iterator[str]:
    """What has to be known to read the tables."""
    yield from (f"{router} is left out: {why}" for router, why in comparison.left_out.items())
    for load in comparison.rounds:
        figures = comparison.figures(load)
        yield from _of_load(figures, load)
    yield f"other programs kept up to {others_cpus(comparison):.2f} of {cpus} CPUs busy meanwhile"


def _of_load(figures: Figures, load: str) -> Iterator[str]:
    if _BERTH in figures.measurements:
        whole = figures.median(_BERTH, lambda one: one.whole_cost_us)
        memory = figures.median(_BERTH, lambda one: one.whole_pss_bytes / 1e6)
        yield (
            f"{load}: Berth's whole appliance, supervisord and control included: {rounded(whole)} us of CPU "
            f"per {UNITS[load]}, {number(memory)} MB PSS"
        )
    own = median(figures.median(router, lambda one: one.upstream_cost_us) for router in figures.measurements)
    yield f"{load}: the upstream's own CPU: {rounded(own)} us per {UNITS[load]}"
    for router, found in figures.measurements.items():
        yield from (f"{load}: {router}: {line}" for line in _oddities(found))


def _oddities(found: Sequence[Measurement]) -> Iterator[str]:
    for what, cpu_s in (
        ("the upstream", [one.usage.upstream / one.result.wall_s for one in found]),
        ("the load generator", [one.result.cpu_s / one.result.wall_s for one in found]),
    ):
        if max(cpu_s) > _BUSY:
            yield f"{what} used {max(cpu_s):.0%} of a CPU: it may be what set the pace"
    problems = sorted({problem for one in found for problem in one.result.failures})
    yield from (f"{sum(one.result.failures.get(name, 0) for one in found)} times: {name}" for name in problems)
    unfinished = sum(one.result.unfinished for one in found)
    if unfinished:
        yield f"{unfinished} streams were cut, as they took more than three times as long as they should"


def text(comparison: Comparison, saturated: Sequence[Sequence[Saturated]], cpus: int) -> str:
    """All of it."""
    parts = [f"{TITLES[load]}; CPU per {UNITS[load]}\n{load_table(comparison, load)}" for load in comparison.rounds]
    if saturated:
        parts.append(f"{SATURATION_CONNECTIONS} connections, whole answers\n{saturation_table(saturated)}")
    if any(_BERTH in comparison.figures(load).measurements for load in comparison.rounds):
        parts.append("\n".join(["Berth and its budget", *verdicts(comparison, cpus)]))
    parts.append("\n".join(["Notes", *notes(comparison, cpus)]))
    return "\n\n".join(parts)
